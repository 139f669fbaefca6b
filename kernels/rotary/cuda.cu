// Rotary embedding: the query and key heads of fused rows are turned in place.
//
// A block per token. A thread keeps one pair of elements and goes through the heads, so that an angle's sine and cosine
// are computed once for all heads of a token. Query and key heads are read and written once: for 8,192 tokens of 40 heads
// of 128 in bf16 168 MB, 50 µs on an H100; the sines of one thread for each pair of each head would take as long again.

#include "device.cuh"

// The two elements of a pair, `apart` elements from each other.
__device__ __forceinline__ void turn(act* first, int apart, float cosine, float sine) {
    float x = to_float(first[0]), y = to_float(first[apart]);
    first[0] = from_float<act>(x * cosine - y * sine);
    first[apart] = from_float<act>(x * sine + y * cosine);
}

// `heads` query and key heads begin each row of `qkv [tokens, row_columns]`. A block has a multiple of `pairs` threads.
KERNEL(rotary, 1024)
(act* qkv, const float* frequencies, const uint32_t* positions, int row_columns, int heads, int head_dim, int pairs,
 int interleaved, float magnitude) {
    int pair = threadIdx.x % pairs, first_head = threadIdx.x / pairs, heads_at_once = blockDim.x / pairs;
    // Rounded to f32 before the sine is taken, as in the models' training.
    float angle = __fmul_rn(float(positions[blockIdx.x]), frequencies[pair]);
    float sine, cosine;
    sincosf(angle, &sine, &cosine);
    sine *= magnitude;
    cosine *= magnitude;
    act* row = qkv + int64_t(blockIdx.x) * row_columns + (interleaved ? 2 * pair : pair);
    for (int head = first_head; head < heads; head += heads_at_once) {
        turn(row + head * head_dim, interleaved ? 1 : pairs, cosine, sine);
    }
}

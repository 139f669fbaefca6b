// Filling the KV cache: a warp per key, and per value, of one token and head.
//
// Each row is read and written once: for 128 tokens of 8 KV heads of 128, bf16, 1 MB; what counts is the launch.
//
// variants: FORMAT f32 f16 bf16 wint8

#include "device.cuh"
#include "kv_cache.cuh"

// A token whose key and value are not kept, as in kernels/cuda/memory.rs.
#define NO_SLOT 0xffffffffu

// The greatest stored number of a scaled row.
#define GREATEST 127.0f

template <class T>
__device__ __forceinline__ T rounded(float x) {
    return from_float<T>(x);
}

// Half-way cases go to the even number, as on the CPU.
template <>
__device__ __forceinline__ int8_t rounded<int8_t>(float x) {
    return int8_t(__float2int_rn(x));
}

// So many neighbouring numbers, moved by one instruction.
template <class T, int count>
struct alignas(sizeof(T) * count) Several {
    T elements[count];
};

// A warp's row of `columns` elements, a multiple of `at_once`.
template <int at_once>
__device__ void store_row(Element* to, float* scale, const act* from, int columns) {
    typedef Several<act, at_once> Read;
    typedef Several<Element, at_once> Written;
    int lane = threadIdx.x % 32;
    float factor = 1.0f;
    if (FORMAT::scaled) {
        float greatest = 0.0f;
#pragma unroll 1
        for (int column = lane * at_once; column < columns; column += 32 * at_once) {
            Read read = *reinterpret_cast<const Read*>(from + column);
            for (int i = 0; i < at_once; i++) greatest = fmaxf(greatest, fabsf(to_float(read.elements[i])));
        }
        greatest = warp_max(greatest);
        float step = greatest > 0.0f ? __fdiv_rn(greatest, GREATEST) : 1.0f;
        factor = __fdiv_rn(1.0f, step);
        if (lane == 0) *scale = step;
    }
    for (int column = lane * at_once; column < columns; column += 32 * at_once) {
        Read read = *reinterpret_cast<const Read*>(from + column);
        Written written;
        for (int i = 0; i < at_once; i++) written.elements[i] = rounded<Element>(to_float(read.elements[i]) * factor);
        *reinterpret_cast<Written*>(to + column) = written;
    }
}

// The key heads, and unless `values` is null the value heads, that follow the query heads in each row of
// `qkv [tokens, row_columns]` go to the token's slot: `[blocks][kv_heads][block_size][head_dim]`, one layer's.
KERNEL(store_kv, 256)
(Element* keys, Element* values, float* key_scales, float* value_scales, const act* qkv, const uint32_t* slots, int tokens,
 int row_columns, int query_heads, int kv_heads, int head_dim, int block_size) {
    int64_t warp = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    int rows = values ? 2 * kv_heads : kv_heads;
    if (warp >= int64_t(tokens) * rows) return;
    int token = int(warp / rows), row = int(warp % rows);
    bool is_key = row < kv_heads;
    int head = is_key ? row : row - kv_heads;
    if (slots[token] == NO_SLOT) return;
    int slot = int(slots[token]);
    int64_t at = kv_row(slot / block_size, kv_heads, head, block_size, slot % block_size);
    const act* from = qkv + int64_t(token) * row_columns + (query_heads + row) * head_dim;
    Element* to = (is_key ? keys : values) + at * head_dim;
    float* scale = FORMAT::scaled ? (is_key ? key_scales : value_scales) + at : nullptr;
    if (head_dim % 4 == 0) {
        store_row<4>(to, scale, from, head_dim);
    } else {
        store_row<1>(to, scale, from, head_dim);
    }
}

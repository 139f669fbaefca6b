// variants: FORMAT
// Rows of the embedding table as the residual stream, f32. A thread takes a lane's share of a row, eight weights. What is
// read and written is a few kilobytes per token: starting the kernel is all of its time.

#include "device.cuh"
#include "formats.cuh"

// Where a quad of a row is; `whole`: rows begin at multiples of 16 bytes.
__device__ __forceinline__ void store_quad(float* to, int columns, int column, bool whole, const float values[4]) {
    if (whole) {
        *reinterpret_cast<float4*>(to + column) = make_float4(values[0], values[1], values[2], values[3]);
        return;
    }
    for (int i = 0; i < 4; i++) {
        if (column + i < columns) to[column + i] = values[i];
    }
}

// In a batch's tokens: the place of one that was chosen, as in kernels/batch.rs.
#define CHOSEN 0x80000000u

// Of a chosen token: its logit is not finite, and no row is right for it.
#define NOT_FINITE_TOKEN 0x80000000u

// y [tokens, columns]: of each token that is one of the `count` from `first` on, its row times `scale`. With `fills`,
// also zeros for each that is none of the table's, `table_count` from `table_first` on. A block in x per token; in y as
// many as it takes to have four threads for each run of the columns. `chosen` has pairs of words, of which the first is
// a token.
KERNEL(embed, 256)
(float* y, const uint8_t* rows, const unsigned* tokens, const unsigned* chosen, unsigned first, unsigned count,
 unsigned table_first, unsigned table_count, int columns, int stride, float scale, int fills) {
    unsigned token = tokens[blockIdx.x];
    if (token & CHOSEN) token = chosen[2 * (token & ~CHOSEN)] & ~NOT_FINITE_TOKEN;
    int index = blockIdx.y * blockDim.x + threadIdx.x, column = index / 4 * RUN, share = index % 4;
    int low = column + first_quad<FORMAT>(share), high = column + second_quad<FORMAT>(share);
    if (low >= columns) return;
    float values[8] = {};
    // Unsigned: a token before the first one is far behind the last one.
    if (token - first < count) {
        share_values<FORMAT>(rows + int64_t(token - first) * stride, columns, column, share, values);
        for (int i = 0; i < 8; i++) values[i] = __fmul_rn(values[i], scale);
    } else if (!fills || token - table_first < table_count) {
        return;
    }
    float* to = y + int64_t(blockIdx.x) * columns;
    bool whole = columns % 4 == 0;
    store_quad(to, columns, low, whole, values);
    if (high < columns) store_quad(to, columns, high, whole, values + 4);
}

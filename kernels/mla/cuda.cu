// variants: FORMAT
// Latent heads: each head's columns of x times its own rows of a stacked weight; and what latent rows hold besides.
//
// A head's matrices are small: of 16 heads, 512 × 128 in bf16 are 2.1 MB, 0.6 µs at 3.35 TB/s. With few tokens a launch
// costs more than what it reads, so all heads are in one, and blocks of it do the rest of the rows: copied parts of
// queries, the key, the norm. 8192 tokens are 17 GFLOP, 17 µs at 990 TFLOP/s; attention after it has a hundred times that.

#include "device.cuh"
#include "formats.cuh"
#include "product.cuh"

// Rows `stride` apart: of x in elements, of a weight in bytes.
template <class T>
struct Rows {
    const T* first;
    int64_t stride;

    __device__ __forceinline__ const T* operator()(int row) const { return first + row * stride; }
};

struct Outputs {
    act* rows;
    int64_t stride;
    int count;

    __device__ __forceinline__ void operator()(int row, int column, float first, float second) const {
        store_pair(rows + row * stride + column, first, second, column + 1 < count);
    }
};

// Products of few rows, at most 8 or 16 in a block …
template <int ROWS_>
struct Few {
    static constexpr int ROWS = ROWS_;

    static __device__ __forceinline__ void run(Rows<uint8_t> weight, int outputs, int inputs, Rows<act> input, int rows,
                                               Outputs output, int tiles) {
        DYNAMIC_SHARED(uint8_t, shared);
        skinny_product<FORMAT, ROWS>(weight, outputs, inputs, input, rows, output, blockIdx.x * TILE_OUTPUTS * tiles,
                                     tiles, shared);
    }
};

// … and of many.
template <class Shape>
struct Many {
    static constexpr int ROWS = Shape::M;

    static __device__ __forceinline__ void run(Rows<uint8_t> weight, int outputs, int inputs, Rows<act> input, int rows,
                                               Outputs output, int) {
        DYNAMIC_SHARED(uint8_t, shared);
        wait_for_last();
        tiled_product<FORMAT, Shape>(weight, outputs, inputs, input, rows, output, 0, blockIdx.x * Shape::N, shared);
    }
};

// What a row of latent_rows (mla/mod.rs) holds besides the products: of `query` heads of q the part that is turned, and
// the key from kv [latent + rope].
struct Rest {
    const float* norm;
    float eps;
    int query, nope, rope, latent;
};

// The rest of a row, by a block of whole warps.
__device__ void write_rest(act* row, const act* q, const act* kv, Rest rest) {
    __shared__ float room[32];
    int q_step = rest.nope + rest.rope, step = rest.rope + rest.latent;
    for (int i = threadIdx.x; i < rest.query * rest.rope; i += blockDim.x) {
        int head = i / rest.rope, at = i % rest.rope;
        row[head * step + at] = q[head * q_step + rest.nope + at];
    }
    act* key = row + rest.query * step;
    for (int i = threadIdx.x; i < rest.rope; i += blockDim.x) key[i] = kv[rest.latent + i];
    float squares = 0.0f;
    for (int i = threadIdx.x; i < rest.latent; i += blockDim.x) {
        float value = to_float(kv[i]);
        squares += value * value;
    }
    float inverse = rsqrtf(block_sum(squares, room) / float(rest.latent) + rest.eps);
    for (int i = threadIdx.x; i < rest.latent; i += blockDim.x) {
        key[rest.rope + i] = from_float<act>(to_float(kv[i]) * inverse * rest.norm[i]);
    }
    // The next row's sums go into the same room.
    __syncthreads();
}

// Blocks are (tile of outputs, tile of rows, head). Head h's columns of x begin at h · x_step and its outputs at
// h · y_step, in rows that are `…_stride` apart; the weight's rows are `weight_stride` bytes apart, `outputs` of each head.
// With `kv`, blocks behind the last head write the rest of rows, whose products begin behind the first `rope` elements.
template <class Product>
__device__ __forceinline__ void by_heads(act* y, int y_step, int y_stride, const act* x, int x_step, int x_stride,
                                         const uint8_t* weight, int weight_stride, int rows, int outputs, int inputs,
                                         int heads, int tiles, const act* kv, Rest rest) {
    int head = blockIdx.z;
    if (head == heads) {
        wait_for_last();
        for (int row = blockIdx.y * gridDim.x + blockIdx.x; row < rows; row += gridDim.x * gridDim.y) {
            write_rest(y - rest.rope + int64_t(row) * y_stride, x + int64_t(row) * x_stride,
                       kv + int64_t(row) * (rest.latent + rest.rope), rest);
        }
        return;
    }
    int first_row = blockIdx.y * Product::ROWS;
    Rows<uint8_t> weights{weight + int64_t(head) * outputs * weight_stride, weight_stride};
    Rows<act> input{x + int64_t(first_row) * x_stride + head * x_step, x_stride};
    Outputs output{y + int64_t(first_row) * y_stride + head * y_step, y_stride, outputs};
    Product::run(weights, outputs, inputs, input, min(rows - first_row, Product::ROWS), output, tiles);
}

#define BY_HEADS(Product)                                                                                              \
    (act* y, int y_step, int y_stride, const act* x, int x_step, int x_stride, const uint8_t* weight,                  \
     int weight_stride, int rows, int outputs, int inputs, int heads, int tiles, const act* kv, const float* norm,     \
     float eps, int query, int rope) {                                                                                 \
        by_heads<Product>(y, y_step, y_stride, x, x_step, x_stride, weight, weight_stride, rows, outputs, inputs,      \
                          heads, tiles, kv, Rest{norm, eps, query, inputs, rope, outputs});                            \
    }

using Few8 = Few<8>;
using Few16 = Few<16>;
using Many64 = Many<Shape<64, 64, 32, 32>>;

KERNEL(heads_8, 256) BY_HEADS(Few8)
KERNEL(heads_16, 256) BY_HEADS(Few16)
KERNEL(heads_64, 128) BY_HEADS(Many64)

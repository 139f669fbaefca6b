// variants: FORMAT
// Linear layers: a part of a weight times rows of activations. Few rows read each weight once (`skinny_…`), many share
// it in tiles (`tiled_…`); how both work stands in product.cuh. Where the outputs are gates and ups, a gate and its up
// are taken for neighbours, so that their sums meet in one thread, and one result comes of them.

// Two where registers suffice.
#define BLOCKS_AT_LEAST (has_offsets(FORMAT) ? 1 : 2)
#include "device.cuh"
#include "formats.cuh"
#include "product.cuh"
#include "results.cuh"

// The rows of a stored matrix in pairs: neighbours, or a gate and its up.
struct StoredRows {
    const uint8_t* rows;
    int64_t stride;
    // In rows, from a pair to the next and from its first row to its second.
    int to_next, to_second;

    __device__ __forceinline__ StoredRows(const uint8_t* rows, int stride, int outputs, int results)
        : rows(rows),
          stride(stride),
          to_next(results == GATED ? 1 : 2),
          to_second(results == GATED ? outputs / 2 : 1) {}

    __device__ __forceinline__ const uint8_t* operator()(int output) const {
        return rows + ((output >> 1) * to_next + (output & 1) * to_second) * stride;
    }
};

// Rows of x, end to end.
struct InputRows {
    const act* rows;
    int64_t columns;

    __device__ __forceinline__ const act* operator()(int row) const { return rows + row * columns; }
};

template <int ROWS>
__device__ __forceinline__ void skinny(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                       int outputs, int inputs, int weight_stride, int y_stride, int results, Gate gate,
                                       int tiles) {
    DYNAMIC_SHARED(uint8_t, shared);
    int first_row = blockIdx.x * ROWS, first_output = blockIdx.y * TILE_OUTPUTS * tiles;
    InputRows input = {x + int64_t(first_row) * inputs, inputs};
    OutputColumns output = {y, bias, y_stride, first_row, outputs, results, gate};
    StoredRows stored(weight, weight_stride, outputs, results);
    skinny_product<FORMAT, ROWS>(stored, outputs, inputs, input, min(rows - first_row, ROWS), output, first_output,
                                 tiles, shared);
}

template <class Shape>
__device__ __forceinline__ void tiled(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                      int outputs, int inputs, int weight_stride, int y_stride, int results,
                                      Gate gate) {
    DYNAMIC_SHARED(uint8_t, shared);
    int first_row = blockIdx.x * Shape::M, first_output = blockIdx.y * Shape::N;
    OutputColumns output = {y, bias, y_stride, 0, outputs, results, gate};
    StoredRows stored(weight, weight_stride, outputs, results);
    tiled_product<FORMAT, Shape>(stored, outputs, inputs, InputRows{x, inputs}, rows, output, first_row, first_output,
                                 shared);
}

// y [rows, …], rows `y_stride` apart, from x [rows, inputs] and weight [outputs, inputs]; a bias per output, or null. Of
// each row `outputs` columns are written, or half as many where results are GATED: then the first half of the outputs are
// gates, the second ups, and `activation`, `limit` and `alpha` say what gates go through. A block in x for each 8 or 16
// rows, in y for each `tiles` tiles of outputs: those of the same weights start together, so that one of them reads
// memory and the others the cache.
KERNEL(skinny_8, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int results, int activation, float limit, float alpha, int tiles) {
    skinny<8>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, results,
              Gate{activation, limit, alpha}, tiles);
}

KERNEL(skinny_16, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int results, int activation, float limit, float alpha, int tiles) {
    skinny<16>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, results,
              Gate{activation, limit, alpha}, tiles);
}

// Tiles want all registers that they can get.
#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 1

// The same; a block per tile, tiles of rows in x, tiles of outputs in y.
KERNEL(tiled_64, 128)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int results, int activation, float limit, float alpha) {
    tiled<Shape<64, 64, 32, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, results,
                                 Gate{activation, limit, alpha});
}

KERNEL(tiled_128, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int results, int activation, float limit, float alpha) {
    tiled<Shape<128, 128, 64, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, results,
                                   Gate{activation, limit, alpha});
}

// to [outputs, inputs] from rows of a weight: for who multiplies so many rows that decoding weights once for all of them
// costs little beside that. Four threads take a run; blocks: runs of a row in x, rows in y.
KERNEL(decode_weights, 256)(act* to, const uint8_t* weight, int inputs, int weight_stride) {
    int index = blockIdx.x * 256 + threadIdx.x, share = index % 4, column = index / 4 * RUN;
    if (column >= inputs) return;
    float values[8];
    share_values<FORMAT>(weight + int64_t(blockIdx.y) * weight_stride, inputs, column, share, values);
    act* row = to + int64_t(blockIdx.y) * inputs;
    int first = column + first_quad<FORMAT>(share), second = column + second_quad<FORMAT>(share);
    if (first < inputs) store_4(row + first, values[0], values[1], values[2], values[3]);
    if (second < inputs) store_4(row + second, values[4], values[5], values[6], values[7]);
}

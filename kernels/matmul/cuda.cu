// variants: FORMAT
// Linear layers: a part of a weight times rows of activations. Few rows read each weight once (`skinny_…`), many share
// it in tiles (`tiled_…`); how both work stands in product.cuh.

// Two where registers suffice.
#define BLOCKS_AT_LEAST (has_offsets(FORMAT) ? 1 : 2)
#include "device.cuh"
#include "formats.cuh"
#include "product.cuh"

// The rows of a stored matrix.
struct StoredRows {
    const uint8_t* rows;
    int64_t stride;

    __device__ __forceinline__ const uint8_t* operator()(int output) const { return rows + output * stride; }
};

// Rows of x, end to end.
struct InputRows {
    const act* rows;
    int64_t columns;

    __device__ __forceinline__ const act* operator()(int row) const { return rows + row * columns; }
};

// Columns of the output, whose rows are `stride` apart: activations, or f32 where `floats`.
struct OutputColumns {
    void* columns;
    const float* bias;
    int64_t stride;
    int first_row;
    int outputs;
    bool floats;

    __device__ __forceinline__ void operator()(int row, int column, float first, float second) const {
        bool both = column + 1 < outputs;
        int64_t at = (first_row + row) * stride + column;
        if (bias != nullptr) {
            first += bias[column];
            if (both) second += bias[column + 1];
        }
        if (floats) {
            store_pair(static_cast<float*>(columns) + at, first, second, both);
        } else {
            store_pair(static_cast<act*>(columns) + at, first, second, both);
        }
    }
};

template <int ROWS>
__device__ __forceinline__ void skinny(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                       int outputs, int inputs, int weight_stride, int y_stride, bool floats,
                                       int tiles) {
    DYNAMIC_SHARED(uint8_t, shared);
    int first_row = blockIdx.x * ROWS, first_output = blockIdx.y * TILE_OUTPUTS * tiles;
    InputRows input = {x + int64_t(first_row) * inputs, inputs};
    OutputColumns output = {y, bias, y_stride, first_row, outputs, floats};
    skinny_product<FORMAT, ROWS>(StoredRows{weight, weight_stride}, outputs, inputs, input, min(rows - first_row, ROWS),
                                 output, first_output, tiles, shared);
}

template <class Shape>
__device__ __forceinline__ void tiled(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                      int outputs, int inputs, int weight_stride, int y_stride, bool floats) {
    DYNAMIC_SHARED(uint8_t, shared);
    int first_row = blockIdx.x * Shape::M, first_output = blockIdx.y * Shape::N;
    OutputColumns output = {y, bias, y_stride, 0, outputs, floats};
    tiled_product<FORMAT, Shape>(StoredRows{weight, weight_stride}, outputs, inputs, InputRows{x, inputs}, rows, output,
                                 first_row, first_output, shared);
}

// y [rows, …], of whose rows `outputs` columns are written, from x [rows, inputs] and weight [outputs, inputs]; a bias
// per output, or null. A block in x for each 8 or 16 rows, in y for each `tiles` tiles of outputs: those of the same
// weights start together, so that one of them reads memory and the others the cache.
KERNEL(skinny_8, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats, int tiles) {
    skinny<8>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats, tiles);
}

#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 1

KERNEL(skinny_16, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats, int tiles) {
    skinny<16>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats, tiles);
}

// The same; a block per tile, tiles of rows in x, tiles of outputs in y.
KERNEL(tiled_64, 128)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats) {
    tiled<Shape<64, 64, 32, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats);
}

KERNEL(tiled_128, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats) {
    tiled<Shape<128, 128, 64, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats);
}

// variants: FORMAT
// Linear layers: a part of a weight times rows of activations. Few rows read each weight once (`skinny_…`), many share
// it in tiles (`tiled_…`); how both work stands in product.cuh.

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
    int outputs;
    bool floats;

    __device__ __forceinline__ void operator()(int row, int column, float first, float second) const {
        bool both = column + 1 < outputs;
        if (bias != nullptr) {
            first += bias[column];
            if (both) second += bias[column + 1];
        }
        if (floats) {
            store_pair(static_cast<float*>(columns) + row * stride + column, first, second, both);
        } else {
            store_pair(static_cast<act*>(columns) + row * stride + column, first, second, both);
        }
    }
};

template <int ROWS>
__device__ __forceinline__ void skinny(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                       int outputs, int inputs, int weight_stride, int y_stride, int tiles,
                                       bool floats) {
    DYNAMIC_SHARED(uint8_t, shared);
    OutputColumns output = {y, bias, y_stride, outputs, floats};
    skinny_product<FORMAT, ROWS>(StoredRows{weight, weight_stride}, outputs, inputs, InputRows{x, inputs}, rows, output,
                                 blockIdx.x * TILE_OUTPUTS * tiles, tiles, shared);
}

template <class Shape>
__device__ __forceinline__ void tiled(void* y, const act* x, const uint8_t* weight, const float* bias, int rows,
                                      int outputs, int inputs, int weight_stride, int y_stride, bool floats) {
    DYNAMIC_SHARED(uint8_t, shared);
    OutputColumns output = {y, bias, y_stride, outputs, floats};
    tiled_product<FORMAT, Shape>(StoredRows{weight, weight_stride}, outputs, inputs, InputRows{x, inputs}, rows, output,
                                 blockIdx.x * Shape::M, blockIdx.y * Shape::N, shared);
}

// y [rows, …], of whose rows `outputs` columns are written, from x [rows, inputs] and weight [outputs, inputs]; a bias
// per output, or null. A block per `tiles` tiles of outputs.
KERNEL(skinny_8, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int tiles, int floats) {
    skinny<8>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, tiles, floats);
}

KERNEL(skinny_16, 256)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int tiles, int floats) {
    skinny<16>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, tiles, floats);
}

// The same; a block per tile, tiles of rows in x, tiles of outputs in y.
KERNEL(tiled_64, 128)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats) {
    tiled<Shape<64, 64, 32, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats);
}

KERNEL(tiled_128, 128)
(void* y, const act* x, const uint8_t* weight, const float* bias, int rows, int outputs, int inputs, int weight_stride,
 int y_stride, int floats) {
    tiled<Shape<128, 64, 64, 32>>(y, x, weight, bias, rows, outputs, inputs, weight_stride, y_stride, floats);
}

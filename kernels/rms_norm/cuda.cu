// Root-mean-square norms: one block per row. Sums are taken in f32.

#include "device.cuh"

// The row's elements times this are normalised.
__device__ float inverse_rms(float squares, int columns, float eps) { return rsqrtf(squares / float(columns) + eps); }

template <class T>
__device__ void norm_row(act* y, const T* x, const float* weight, int columns, float eps) {
    __shared__ float room[32];
    x += int64_t(blockIdx.x) * columns;
    y += int64_t(blockIdx.x) * columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float value = to_float(x[i]);
        squares += value * value;
    }
    float inverse = inverse_rms(block_sum(squares, room), columns, eps);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) y[i] = from_float<act>(to_float(x[i]) * inverse * weight[i]);
}

// y [rows, columns] from x of the same shape, weight [columns]; a block per row.
KERNEL(rms_norm, 1024)(act* y, const act* x, const float* weight, int columns, float eps) {
    norm_row(y, x, weight, columns, eps);
}

// The same from the residual stream.
KERNEL(rms_norm_residual, 1024)(act* y, const float* x, const float* weight, int columns, float eps) {
    norm_row(y, x, weight, columns, eps);
}

// residual += scale · x, then y is the norm of the sum; a block per row.
KERNEL(add_rms_norm, 1024)
(act* y, float* residual, const act* x, const float* weight, int columns, float scale, float eps) {
    __shared__ float room[32];
    int64_t row = int64_t(blockIdx.x) * columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        // Two roundings, as on the CPU.
        float sum = __fadd_rn(residual[row + i], __fmul_rn(scale, to_float(x[row + i])));
        residual[row + i] = sum;
        squares += sum * sum;
    }
    float inverse = inverse_rms(block_sum(squares, room), columns, eps);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        y[row + i] = from_float<act>(residual[row + i] * inverse * weight[i]);
    }
}

// Root-mean-square norms: one block per row. Sums are taken in f32.

#include "norm.cuh"

template <class T>
__device__ void norm_row(act* y, const T* x, const float* weight, int columns, float eps) {
    __shared__ float room[32];
    overlap_begin();
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

// residual += scale · x, then y is the norm of the sum; a block per row. Of the first elements a thread's are all on their
// way at once, and stay in registers until their norm is known.
KERNEL(add_rms_norm, 1024)
(act* y, float* residual, const act* x, const float* weight, int columns, float scale, float eps) {
    constexpr int HELD = 8;
    __shared__ float room[32];
    let_next_begin();
    int64_t row = int64_t(blockIdx.x) * columns;
    int held_columns = HELD * blockDim.x;
    float held[HELD], factors[HELD];
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int i = threadIdx.x + k * blockDim.x;
        factors[k] = i < columns ? weight[i] : 0.0f;
    }
    wait_for_last();
    float squares = 0.0f;
    auto sum_at = [&](int i) { return add_scaled(residual[row + i], scale, to_float(x[row + i])); };
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int i = threadIdx.x + k * blockDim.x;
        held[k] = i < columns ? sum_at(i) : 0.0f;
        squares += held[k] * held[k];
    }
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int i = threadIdx.x + k * blockDim.x;
        if (i < columns) residual[row + i] = held[k];
    }
    for (int i = threadIdx.x + held_columns; i < columns; i += blockDim.x) {
        float sum = sum_at(i);
        residual[row + i] = sum;
        squares += sum * sum;
    }
    float inverse = inverse_rms(block_sum(squares, room), columns, eps);
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int i = threadIdx.x + k * blockDim.x;
        if (i < columns) y[row + i] = from_float<act>(held[k] * inverse * factors[k]);
    }
    for (int i = threadIdx.x + held_columns; i < columns; i += blockDim.x) {
        y[row + i] = from_float<act>(residual[row + i] * inverse * weight[i]);
    }
}

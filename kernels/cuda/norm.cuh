// What root-mean-square norms have in common, alone and behind an all-reduce.

#ifndef SHARDWIRE_NORM_CUH
#define SHARDWIRE_NORM_CUH

#include "device.cuh"

// A row's elements times this are normalised.
__device__ __forceinline__ float inverse_rms(float squares, int columns, float eps) {
    return rsqrtf(squares / float(columns) + eps);
}

// stream + scale · x, in two roundings, as on the CPU.
__device__ __forceinline__ float add_scaled(float stream, float scale, float x) {
    return __fadd_rn(stream, __fmul_rn(scale, x));
}

// Adds scale · x to eight neighbours of the residual stream; the sums' squares, added to `squares`.
__device__ __forceinline__ float add_scaled_8(float* stream, float scale, const float x[8], float squares) {
    float sum[8];
    load_8(stream, sum);
    for (int k = 0; k < 8; k++) {
        sum[k] = add_scaled(sum[k], scale, x[k]);
        squares += sum[k] * sum[k];
    }
    store_8(stream, sum);
    return squares;
}

// Eight neighbours of the residual stream, normalised.
__device__ __forceinline__ void normed_8(const float* stream, const float* weight, float inverse, float normed[8]) {
    load_8(stream, normed);
    for (int k = 0; k < 8; k++) normed[k] *= inverse * weight[k];
}

#endif  // SHARDWIRE_NORM_CUH

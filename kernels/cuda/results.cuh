// What becomes of the sums of linear layers.

#ifndef SHARDWIRE_RESULTS_CUH
#define SHARDWIRE_RESULTS_CUH

#include "device.cuh"
#include "gate.cuh"

// As `Results` in matmul/cuda.rs.
enum Results { ACTIVATIONS, FLOATS, GATED };

// Columns of the output, whose rows are `stride` apart.
struct OutputColumns {
    void* columns;
    const float* bias;
    int64_t stride;
    int first_row;
    int outputs;
    int results;
    Gate gate;

    __device__ __forceinline__ void operator()(int row, int column, float first, float second) const {
        int64_t at = (first_row + row) * stride;
        if (results == GATED) {
            int pair = column / 2;
            if (bias != nullptr) first += bias[pair], second += bias[outputs / 2 + pair];
            static_cast<act*>(columns)[at + pair] = from_float<act>(gated(gate, first, second));
            return;
        }
        bool both = column + 1 < outputs;
        if (bias != nullptr) {
            first += bias[column];
            if (both) second += bias[column + 1];
        }
        if (results == FLOATS) {
            store_pair(static_cast<float*>(columns) + at + column, first, second, both);
        } else {
            store_pair(static_cast<act*>(columns) + at + column, first, second, both);
        }
    }
};

#endif  // SHARDWIRE_RESULTS_CUH

// The gate of a gated linear unit, for whoever has both halves at hand. The formulas are those of glu/mod.rs.

#ifndef SHARDWIRE_GATE_CUH
#define SHARDWIRE_GATE_CUH

#include "device.cuh"

// As `glu::Activation` counts them.
enum Activation { SILU, GELU_TANH, CLAMPED };

// What the gate goes through; `limit` and `alpha` are CLAMPED's.
struct Gate {
    int activation;
    float limit, alpha;
};

// x · sigmoid(y). Where y is far below zero the power is infinite, and the quotient zero, as it should be.
__device__ __forceinline__ float times_sigmoid(float x, float y) { return x / (1.0f + expf(-y)); }

__device__ __forceinline__ float gated(Gate by, float gate, float up) {
    if (by.activation == SILU) return times_sigmoid(gate, gate) * up;
    if (by.activation == GELU_TANH) {
        // (1 + tanh y) / 2 is sigmoid(2y); the factor is twice the root of 2 / π.
        float y = gate * (1.0f + 0.044715f * gate * gate) * 1.595769122f;
        return times_sigmoid(gate, y) * up;
    }
    gate = fminf(gate, by.limit);
    up = fmaxf(-by.limit, fminf(up, by.limit));
    return times_sigmoid(gate, by.alpha * gate) * (up + 1.0f);
}

#endif  // SHARDWIRE_GATE_CUH

// How one layer of the KV cache is stored: `[blocks][kv_heads][block_size][head_dim]` keys, and values likewise, so that
// the rows of one head's neighbouring slots are neighbours. FORMAT is the storage format, by the name of the weights that
// are stored alike.

#ifndef SHARDWIRE_KV_CACHE_CUH
#define SHARDWIRE_KV_CACHE_CUH

#include "device.cuh"

// FP8 (e4m3): four bits of exponent and three of mantissa, no infinities; here no not-a-numbers either.
struct e4m3 {
    uint8_t bits;
};

// The exponent and mantissa become the lower ones of f32's, where they are worth 2⁻¹²⁰ times as much (biases 7 and 127),
// subnormal numbers too.
__device__ __forceinline__ float to_float(e4m3 x) {
    return __uint_as_float(uint32_t(x.bits & 0x80) << 24 | uint32_t(x.bits & 0x7f) << 20) * __uint_as_float(0x7b800000);
}

// To nearest, ties to even; what is beyond ±448, and what is no number, becomes that: as kernels/matmul/e4m3.rs, where it
// is explained.
template <>
__device__ __forceinline__ e4m3 from_float<e4m3>(float x) {
    float magnitude = fminf(fabsf(x), 448.0f);
    uint32_t bits = __float_as_uint(magnitude);
    uint32_t normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - ((127 - 7) << 3);
    uint32_t code = magnitude < 0.015625f ? uint32_t(__float2int_rn(magnitude * 512.0f)) : normal;
    return e4m3{uint8_t(code | (__float_as_uint(x) >> 24 & 0x80))};
}

struct F32 {
    typedef float Element;
    static const bool scaled = false;
};

struct F16 {
    typedef f16 Element;
    static const bool scaled = false;
};

struct BF16 {
    typedef bf16 Element;
    static const bool scaled = false;
};

// An element is a multiple of its row's scale, `[blocks][kv_heads][block_size]`.
struct WINT8 {
    typedef int8_t Element;
    static const bool scaled = true;
};

struct F8_E4M3 {
    typedef e4m3 Element;
    static const bool scaled = false;
};

typedef FORMAT::Element Element;

// The index of a row, which is below 2³¹.
__device__ __forceinline__ int kv_row(int block, int kv_heads, int head, int block_size, int offset) {
    return (block * kv_heads + head) * block_size + offset;
}

#endif  // SHARDWIRE_KV_CACHE_CUH

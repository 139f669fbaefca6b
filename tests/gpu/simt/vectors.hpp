// CUDA's vector types, with its alignments.
#pragma once

#include "fiber.hpp"

#define SIMT_VECTOR_2(name, element, alignment) \
    struct alignas(alignment) name {            \
        element x, y;                           \
    };                                          \
    inline name make_##name(element x, element y) { return {x, y}; }

#define SIMT_VECTOR_4(name, element, alignment) \
    struct alignas(alignment) name {            \
        element x, y, z, w;                     \
    };                                          \
    inline name make_##name(element x, element y, element z, element w) { return {x, y, z, w}; }

SIMT_VECTOR_2(char2, signed char, 2)
SIMT_VECTOR_4(char4, signed char, 4)
SIMT_VECTOR_2(uchar2, unsigned char, 2)
SIMT_VECTOR_4(uchar4, unsigned char, 4)
SIMT_VECTOR_2(short2, short, 4)
SIMT_VECTOR_4(short4, short, 8)
SIMT_VECTOR_2(ushort2, unsigned short, 4)
SIMT_VECTOR_4(ushort4, unsigned short, 8)
SIMT_VECTOR_2(int2, int, 8)
SIMT_VECTOR_4(int4, int, 16)
SIMT_VECTOR_2(uint2, unsigned, 8)
SIMT_VECTOR_4(uint4, unsigned, 16)
SIMT_VECTOR_2(float2, float, 8)
SIMT_VECTOR_4(float4, float, 16)
SIMT_VECTOR_2(longlong2, long long, 16)
SIMT_VECTOR_2(ulonglong2, unsigned long long, 16)
SIMT_VECTOR_2(double2, double, 16)

#undef SIMT_VECTOR_2
#undef SIMT_VECTOR_4

struct int3 {
    int x, y, z;
};
struct float3 {
    float x, y, z;
};

inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }

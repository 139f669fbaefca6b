// CUDA's arithmetic functions. Fast ones are as exact as the host's: tests must allow for the GPU's being coarser.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <x86intrin.h>

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

namespace simt {

template <class To, class From>
To same_bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Conversions saturate and turn NaN into 0, as the GPU's do; C++ leaves that undefined.
template <class To>
To saturated(double value) {
    if (std::isnan(value)) return 0;
    constexpr double lowest = double(std::numeric_limits<To>::min());
    constexpr double highest = double(std::numeric_limits<To>::max());
    if (value <= lowest) return std::numeric_limits<To>::min();
    if (value >= highest) return std::numeric_limits<To>::max();
    return To(value);
}

}  // namespace simt

// IEEE binary16 and binary32; to the narrower one by rounding to nearest, ties to even.
inline float half_to_float(uint16_t bits) {
#ifdef __F16C__
    return _cvtsh_ss(bits);
#else
    uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ffu;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * float(fraction) * 0x1p-24f;
    return simt::same_bits<float>(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
#endif
}

inline uint16_t float_to_half(float value) {
#ifdef __F16C__
    return uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    uint32_t bits = simt::same_bits<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to infinity
    if (magnitude < 0x38800000u) {
        // Below the least normal number the steps are 2⁻²⁴: the addition rounds to them.
        float step = simt::same_bits<float>(magnitude) + 0.5f;
        return uint16_t(sign | (simt::same_bits<uint32_t>(step) - 0x3f000000u));
    }
    return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13));
#endif
}

inline unsigned __float_as_uint(float x) { return simt::same_bits<unsigned>(x); }
inline int __float_as_int(float x) { return simt::same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return simt::same_bits<float>(x); }
inline float __int_as_float(int x) { return simt::same_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt::same_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::same_bits<double>(x); }

inline int __float2int_rn(float x) { return simt::saturated<int>(nearbyint(double(x))); }
inline int __float2int_rz(float x) { return simt::saturated<int>(trunc(double(x))); }
inline int __float2int_rd(float x) { return simt::saturated<int>(floor(double(x))); }
inline int __float2int_ru(float x) { return simt::saturated<int>(ceil(double(x))); }
inline unsigned __float2uint_rn(float x) { return simt::saturated<unsigned>(nearbyint(double(x))); }
inline unsigned __float2uint_rz(float x) { return simt::saturated<unsigned>(trunc(double(x))); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }
inline unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
inline unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (x >> bit & 1) << (31 - bit);
    return reversed;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    uint64_t bytes = uint64_t(high) << 32 | low;
    unsigned chosen = 0;
    for (int at = 0; at < 4; at++) {
        unsigned choice = selector >> 4 * at;
        unsigned byte = unsigned(bytes >> 8 * (choice & 7)) & 0xff;
        if (choice & 8) byte = byte & 0x80 ? 0xff : 0;  // its sign, repeated
        chosen |= byte << 8 * at;
    }
    return chosen;
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}

inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }

inline int __dp4a(int a, int b, int sum) {
    unsigned total = unsigned(sum);
    for (int at = 0; at < 4; at++) total += unsigned(int8_t(a >> 8 * at) * int8_t(b >> 8 * at));
    return int(total);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int at = 0; at < 4; at++) sum += (a >> 8 * at & 0xff) * (b >> 8 * at & 0xff);
    return sum;
}

inline long long clock64() { return (long long)__rdtsc(); }

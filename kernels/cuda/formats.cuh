// The storage formats of weights: how a lane reads its share of a row. Geometry: kernels/dtype.rs; what the numbers mean:
// kernels/matmul/dequantize.rs, which these match to the bit.
//
// A row is read in runs of 32 columns, of which four lanes take eight each, their *share*: two quads of neighbours. In
// the plain formats a share is eight neighbours. In the quantized ones its first quad lies in the first half of the run
// and its second in the second half, so that both nibbles of a byte belong to one lane, and a quad has one scale even
// where groups of 16 have their own.
//
// A quantized weight is `scale · quant + offset`. In every format the quant, its zero point taken off, is an integer of
// at most 8 bits or a number of at most 4, hence exact in bf16: tensor cores multiply quants, and scales are applied to
// sums. `scale · quant + offset` with one rounding is what dequantize.rs says in each format: where that rounds twice,
// the first product is exact.

#ifndef SHARDWIRE_FORMATS_CUH
#define SHARDWIRE_FORMATS_CUH

#include "device.cuh"

enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    TQ1_0,
    TQ2_0,
    WINT8,
    WINT4,
    WINT4G32,
    F8_E4M3,
};

// Columns of a run.
constexpr int RUN = 32;

// ---- geometry ----

// Weights of a block; 1: a plain format.
constexpr int block_columns(Format format) {
    switch (format) {
        case F32:
        case F16:
        case BF16: return 1;
        case WINT8:
        case WINT4:
        case F8_E4M3: return 128;
        case Q2_K:
        case Q3_K:
        case Q4_K:
        case Q5_K:
        case Q6_K:
        case IQ4_XS:
        case TQ1_0:
        case TQ2_0: return 256;
        default: return 32;
    }
}

constexpr int block_bytes(Format format) {
    switch (format) {
        case F32: return 4;
        case F16:
        case BF16: return 2;
        case Q8_0: return 34;
        case Q4_0:
        case IQ4_NL: return 18;
        case Q4_1: return 20;
        case Q5_0: return 22;
        case Q5_1: return 24;
        case Q2_K: return 84;
        case Q3_K: return 110;
        case Q4_K: return 144;
        case Q5_K: return 176;
        case Q6_K: return 210;
        case IQ4_XS: return 136;
        case MXFP4: return 17;
        case TQ1_0: return 54;
        case TQ2_0: return 66;
        case WINT8:
        case F8_E4M3: return 132;
        case WINT4: return 68;
        case WINT4G32: return 19;
    }
    return 0;
}

constexpr bool is_plain(Format format) { return block_columns(format) == 1; }

// Whether weights have an offset besides a scale.
constexpr bool has_offsets(Format format) {
    return format == Q4_1 || format == Q5_1 || format == Q2_K || format == Q4_K || format == Q5_K;
}

// Columns that have the same scale and offset; a share's quads lie in different groups where it is half a run.
constexpr int group_columns(Format format) {
    return format == Q2_K || format == Q3_K || format == Q6_K ? 16 : block_columns(format) == 128 ? 128 : RUN;
}

// Bytes of `columns` weights, whole blocks of them.
constexpr int bytes_of(Format format, int columns) {
    return columns / block_columns(format) * block_bytes(format);
}

// What the address of a block is a multiple of, where rows begin at multiples of 16.
constexpr int block_alignment(Format format) {
    int bytes = block_bytes(format);
    return (bytes & -bytes) < 16 ? bytes & -bytes : 16;
}

// Where the quads of share `share` begin in their run.
template <Format format>
__device__ __forceinline__ int first_quad(int share) {
    return is_plain(format) ? 8 * share : 4 * share;
}

template <Format format>
__device__ __forceinline__ int second_quad(int share) {
    return is_plain(format) ? 8 * share + 4 : 4 * share + 16;
}

// ---- reading ----

// The word at an address that is a multiple of `alignment`. Only words that hold some of its bytes are touched.
template <int alignment>
__device__ __forceinline__ uint32_t word_at(const uint8_t* at) {
    if constexpr (alignment >= 4) {
        return *reinterpret_cast<const uint32_t*>(at);
    } else if constexpr (alignment == 2) {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(at);
        return uint32_t(halves[0]) | uint32_t(halves[1]) << 16;
    } else {
        uint32_t past = uint32_t(reinterpret_cast<uint64_t>(at)) & 3;
        const uint32_t* low = reinterpret_cast<const uint32_t*>(at - past);
        return __funnelshift_r(low[0], low[past != 0], 8 * past);
    }
}

template <int alignment>
__device__ __forceinline__ float half_at(const uint8_t* at) {
    if constexpr (alignment >= 2) return to_float(*reinterpret_cast<const f16*>(at));
    return to_float(f16{uint16_t(at[0] | at[1] << 8)});
}

__device__ __forceinline__ float float_at(const uint8_t* at) { return *reinterpret_cast<const float*>(at); }

// ---- small numbers as bf16 ----

// a + b for both bf16 of a register; exact where it is used, but for that.
__device__ __forceinline__ uint32_t add_pair(uint32_t a, uint32_t b) {
#ifdef SIMT
    return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b));
#else
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80), "r"(b));
    return sum;
#endif
}

// a · b for both.
__device__ __forceinline__ uint32_t multiply_pair(uint32_t a, uint32_t b) {
#ifdef SIMT
    return pack_bf16(low_bf16(a) * low_bf16(b), high_bf16(a) * high_bf16(b));
#else
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000));
    return product;
#endif
}

// The lower two bytes of a word, and the upper two, each in the lower half of 16 bits.
__device__ __forceinline__ uint32_t lower_pair(uint32_t bytes) { return __byte_perm(bytes, 0, 0x4140); }
__device__ __forceinline__ uint32_t upper_pair(uint32_t bytes) { return __byte_perm(bytes, 0, 0x4342); }

// Two integers from 0 to 127, in 16 bits each, minus `zero`. In the lowest bits of a bf16's mantissa such an integer is
// that much above 128.
__device__ __forceinline__ uint32_t pair_minus(uint32_t pair, int zero) {
    uint32_t subtracted = 0xc300u | uint32_t(zero);
    return add_pair(pair | 0x43004300u, subtracted << 16 | subtracted);
}

// Four integers from 0 to 127, a byte each, minus `zero`.
__device__ __forceinline__ void quad_minus(uint32_t bytes, int zero, uint32_t quad[2]) {
    quad[0] = pair_minus(lower_pair(bytes), zero);
    quad[1] = pair_minus(upper_pair(bytes), zero);
}

// Four signed bytes. The highest bit of each is worth −128: it goes to what is taken from 128 plus the rest, 128 or 256.
__device__ __forceinline__ uint32_t signed_pair(uint32_t pair) {
    return add_pair((pair & 0x007f007fu) | 0x43004300u, (pair & 0x00800080u) | 0xc300c300u);
}

__device__ __forceinline__ void signed_quad(uint32_t bytes, uint32_t quad[2]) {
    quad[0] = signed_pair(lower_pair(bytes));
    quad[1] = signed_pair(upper_pair(bytes));
}

// Numbers of FP8 (e4m3). Their exponent and mantissa become the lower ones of bf16's, where they are worth 2⁻¹²⁰ times as
// much (biases 7 and 127), subnormal numbers too.
__device__ __forceinline__ void e4m3_quad(uint32_t bytes, uint32_t quad[2]) {
    uint32_t pairs[2] = {__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424)};
    for (int i = 0; i < 2; i++) {
        uint32_t moved = (pairs[i] & 0x80008000u) | (pairs[i] >> 4 & 0x07f007f0u);
        quad[i] = multiply_pair(moved, 0x7b807b80u);
    }
}

// Twice the numbers of FP4 (e2m1), a nibble each in 16 bits; likewise (biases 1 and 127), with 2¹²⁷.
__device__ __forceinline__ uint32_t twice_e2m1_pair(uint32_t pair) {
    uint32_t moved = (pair << 12 & 0x80008000u) | (pair << 6 & 0x01c001c0u);
    return multiply_pair(moved, 0x7f007f00u);
}

// What nibbles of IQ4_NL and IQ4_XS number: −127, −104, −83, −65, −49, −35, −22, −10, 1, 13, 25, 38, 53, 69, 89, 113.
__device__ __forceinline__ void iq4_quad(uint32_t nibbles, uint32_t quad[2]) {
    // The low bits of four nibbles choose a byte of eight, in each half of the table; their highest bits, between those.
    uint32_t low_bits = nibbles & 0x07070707u;
    uint32_t neighbours = low_bits | low_bits >> 4;
    uint32_t chosen = (neighbours & 0xffu) | (neighbours >> 8 & 0xff00u);
    uint32_t below = __byte_perm(0xbfad9881u, 0xf6eaddcfu, chosen);
    uint32_t above = __byte_perm(0x26190d01u, 0x71594535u, chosen);
    uint32_t is_above = (nibbles >> 3 & 0x01010101u) * 0xffu;
    signed_quad((below & ~is_above) | (above & is_above), quad);
}

// Half of the power of two that an exponent of eight bits (e8m0) stands for; the least ones are subnormal.
__device__ __forceinline__ float half_e8m0(uint32_t exponent) {
    return __uint_as_float(exponent < 2 ? 0x200000u << exponent : (exponent - 1) << 23);
}

// ---- the formats ----

// Of the share `share` of run `run` of a block: its quants, as pairs of bf16, the first quad in the first two; and the
// scale and offset of each quad.
template <Format format>
struct Stored;

// Nibbles whose low halves are a run's first sixteen, in 16 bytes from `at` on.
template <int alignment>
__device__ __forceinline__ void nibble_quads(const uint8_t* at, int share, uint32_t quads[2]) {
    uint32_t bytes = word_at<alignment>(at + 4 * share);
    quads[0] = bytes & 0x0f0f0f0fu;
    quads[1] = bytes >> 4 & 0x0f0f0f0fu;
}

// Of 256 nibbles, every 32 bytes hold two runs, low halves and high ones.
__device__ __forceinline__ void paired_nibble_quads(const uint8_t* at, int run, int share, uint32_t quads[2]) {
    const uint8_t* bytes = at + run / 2 * 32 + 4 * share;
    for (int i = 0; i < 2; i++) quads[i] = word_at<4>(bytes + 16 * i) >> (run % 2 * 4) & 0x0f0f0f0fu;
}

// Of 256 numbers of two bits, every 32 bytes hold four runs, the lowest bits first.
template <int alignment>
__device__ __forceinline__ void two_bit_quads(const uint8_t* at, int run, int share, uint32_t quads[2]) {
    const uint8_t* bytes = at + run / 4 * 32 + 4 * share;
    for (int i = 0; i < 2; i++) quads[i] = word_at<alignment>(bytes + 16 * i) >> (run % 4 * 2) & 0x03030303u;
}

// Bit `bit` of 32 bytes, a run's, at the place `to` of each.
template <int alignment>
__device__ __forceinline__ void add_bit(const uint8_t* at, int bit, int to, int share, uint32_t quads[2]) {
    for (int i = 0; i < 2; i++) quads[i] |= (word_at<alignment>(at + 4 * share + 16 * i) >> bit & 0x01010101u) << to;
}

// The fifth bits of a run, 32 of them in a word.
__device__ __forceinline__ void add_fifth_bits(uint32_t bits, int share, uint32_t quads[2]) {
    for (int i = 0; i < 2; i++) {
        uint32_t own = bits >> (4 * share + 16 * i) & 15;
        // Times 2⁰ + 2⁷ + 2¹⁴ + 2²¹, every bit is the lowest of some byte.
        quads[i] |= (own * 0x00204081u & 0x01010101u) << 4;
    }
}

__device__ __forceinline__ void same_scales(float scale, float offset, float scales[2], float offsets[2]) {
    scales[0] = scales[1] = scale;
    offsets[0] = offsets[1] = offset;
}

__device__ __forceinline__ void quads_minus(const uint32_t bytes[2], int zero, uint32_t quants[4]) {
    quad_minus(bytes[0], zero, quants);
    quad_minus(bytes[1], zero, quants + 2);
}

template <>
struct Stored<Q8_0> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        signed_quad(word_at<2>(block + 2 + 4 * share), quants);
        signed_quad(word_at<2>(block + 18 + 4 * share), quants + 2);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q4_0> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<2>(block + 2, share, quads);
        quads_minus(quads, 8, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q4_1> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<4>(block + 4, share, quads);
        quads_minus(quads, 0, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), half_at<2>(block + 2), scales, offsets);
    }
};

template <>
struct Stored<Q5_0> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<2>(block + 6, share, quads);
        add_fifth_bits(word_at<2>(block + 2), share, quads);
        quads_minus(quads, 16, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q5_1> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<4>(block + 8, share, quads);
        add_fifth_bits(word_at<4>(block + 4), share, quads);
        quads_minus(quads, 0, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), half_at<2>(block + 2), scales, offsets);
    }
};

template <>
struct Stored<Q2_K> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        two_bit_quads<4>(block + 16, run, share, quads);
        quads_minus(quads, 0, quants);
    }
    // Sixteen bytes, the scale of a group in the low half of its own.
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<4>(block + 80), minimum = -half_at<2>(block + 82);
        for (int i = 0; i < 2; i++) {
            int packed = block[2 * run + i];
            scales[i] = scale * float(packed & 15);
            offsets[i] = minimum * float(packed >> 4);
        }
    }
};

template <>
struct Stored<Q3_K> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        two_bit_quads<2>(block + 32, run, share, quads);
        add_bit<2>(block, run, 2, share, quads);
        quads_minus(quads, 4, quants);
    }
    // Sixteen numbers of six bits: the lower four in eight bytes, the upper two in four.
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<2>(block + 108);
        for (int i = 0; i < 2; i++) {
            int group = 2 * run + i;
            int low = block[96 + group % 8] >> (group / 8 * 4) & 15;
            int high = block[104 + group % 4] >> (group / 4 * 2) & 3;
            scales[i] = scale * float((low | high << 4) - 32);
            offsets[i] = 0.0f;
        }
    }
};

// The scale and the minimum of one of eight groups, 6 bits each: in the first four bytes are scales 0–3, in the next four
// minima 0–3, their upper bits being those of scales and minima 4–7, whose lower four bits are the last four.
__device__ __forceinline__ void six_bit_scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
    int first = block[4 + run % 4], second = block[8 + run % 4], last = block[12 + run % 4];
    int own_scale = run < 4 ? first & 63 : (last & 15) | first >> 6 << 4;
    int own_minimum = run < 4 ? second & 63 : last >> 4 | second >> 6 << 4;
    same_scales(half_at<4>(block) * float(own_scale), -half_at<2>(block + 2) * float(own_minimum), scales, offsets);
}

template <>
struct Stored<Q4_K> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        paired_nibble_quads(block + 16, run, share, quads);
        quads_minus(quads, 0, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        six_bit_scales(block, run, scales, offsets);
    }
};

template <>
struct Stored<Q5_K> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        paired_nibble_quads(block + 48, run, share, quads);
        add_bit<4>(block + 16, run, 4, share, quads);
        quads_minus(quads, 0, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        six_bit_scales(block, run, scales, offsets);
    }
};

template <>
struct Stored<Q6_K> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        int half = run / 4, quarter = run % 4;
        const uint8_t* low = block + 64 * half + quarter % 2 * 32 + 4 * share;
        const uint8_t* high = block + 128 + 32 * half + 4 * share;
        for (int i = 0; i < 2; i++) {
            uint32_t bytes = word_at<2>(low + 16 * i) >> (quarter / 2 * 4) & 0x0f0f0f0fu;
            bytes |= (word_at<2>(high + 16 * i) >> (quarter * 2) & 0x03030303u) << 4;
            quad_minus(bytes, 32, quants + 2 * i);
        }
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<2>(block + 208);
        for (int i = 0; i < 2; i++) {
            scales[i] = scale * float(int8_t(block[192 + 2 * run + i]));
            offsets[i] = 0.0f;
        }
    }
};

template <>
struct Stored<IQ4_NL> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<2>(block + 2, share, quads);
        iq4_quad(quads[0], quants);
        iq4_quad(quads[1], quants + 2);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<IQ4_XS> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<4>(block + 8 + 16 * run, share, quads);
        iq4_quad(quads[0], quants);
        iq4_quad(quads[1], quants + 2);
    }
    // Eight numbers of six bits, the upper two in bytes 2 and 3, the lower four in bytes 4 to 7.
    static __device__ __forceinline__ void scales(const uint8_t* block, int run, float scales[2], float offsets[2]) {
        int low = block[4 + run / 2] >> (run % 2 * 4) & 15;
        int high = block[2 + run / 4] >> (run % 4 * 2) & 3;
        same_scales(half_at<4>(block) * float((low | high << 4) - 32), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<MXFP4> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<1>(block + 1, share, quads);
        for (int i = 0; i < 2; i++) {
            quants[2 * i] = twice_e2m1_pair(lower_pair(quads[i]));
            quants[2 * i + 1] = twice_e2m1_pair(upper_pair(quads[i]));
        }
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_e8m0(block[0]), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<TQ1_0> {
    // A byte is a fraction of 256 whose digits in base three are the weights: the first 32 bytes hold five rows of 32, the
    // next 16 five rows of 16, the last four bytes four rows of four.
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) {
            int row = 2 * (run - 5) + i;
            int at = run < 5 ? 16 * i + 4 * share : row < 5 ? 32 + 4 * share : 48;
            int digit = run < 5 ? run : row < 5 ? row : share;
            uint32_t bytes = word_at<2>(block + at);
            uint32_t power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
            // The digits behind the point, then the first of them; two bytes at a time have room for the products.
            uint32_t pairs[2] = {lower_pair(bytes), upper_pair(bytes)};
            for (int j = 0; j < 2; j++) {
                uint32_t rest = pairs[j] * power & 0x00ff00ffu;
                quants[2 * i + j] = pair_minus(rest * 3 >> 8 & 0x00030003u, 1);
            }
        }
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block + 52), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<TQ2_0> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        two_bit_quads<2>(block, run, share, quads);
        quads_minus(quads, 1, quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block + 64), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT8> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        const uint8_t* bytes = block + 4 + 32 * run + 4 * share;
        signed_quad(word_at<4>(bytes), quants);
        signed_quad(word_at<4>(bytes + 16), quants + 2);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(float_at(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT4> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<4>(block + 4 + 16 * run, share, quads);
        quads_minus(quads, block[2], quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT4G32> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int, int share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<1>(block + 3, share, quads);
        quads_minus(quads, block[2], quants);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<1>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<F8_E4M3> {
    static __device__ __forceinline__ void quants(const uint8_t* block, int run, int share, uint32_t quants[4]) {
        const uint8_t* bytes = block + 4 + 32 * run + 4 * share;
        e4m3_quad(word_at<4>(bytes), quants);
        e4m3_quad(word_at<4>(bytes + 16), quants + 2);
    }
    static __device__ __forceinline__ void scales(const uint8_t* block, int, float scales[2], float offsets[2]) {
        same_scales(float_at(block), 0.0f, scales, offsets);
    }
};

// ---- values ----

// The block that holds the run from column `column` on.
template <Format format>
__device__ __forceinline__ const uint8_t* block_at(const uint8_t* row, int column) {
    return row + column / block_columns(format) * block_bytes(format);
}

template <Format format>
__device__ __forceinline__ int run_in_block(int column) {
    return column % block_columns(format) / RUN;
}

// Eight neighbouring weights of a plain row, from `column` on, a multiple of 8. A row ends at a multiple of 16 bytes with
// zeros; `columns` is where it ends without them, and nothing is read behind.
template <Format format>
__device__ __forceinline__ void plain_8(const uint8_t* row, int columns, int column, float values[8]) {
    const uint8_t* at = row + column * block_bytes(format);
    if constexpr (format == F32) {
        const float4* quads = reinterpret_cast<const float4*>(at);
        float4 first = quads[0], second = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (column + 4 < columns) second = quads[1];
        values[0] = first.x, values[1] = first.y, values[2] = first.z, values[3] = first.w;
        values[4] = second.x, values[5] = second.y, values[6] = second.z, values[7] = second.w;
    } else if constexpr (format == BF16) {
        load_8(reinterpret_cast<const bf16*>(at), values);
    } else {
        uint4 words = *reinterpret_cast<const uint4*>(at);
        uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
        for (int i = 0; i < 4; i++) {
            values[2 * i] = to_float(f16{uint16_t(pairs[i])});
            values[2 * i + 1] = to_float(f16{uint16_t(pairs[i] >> 16)});
        }
    }
}

// A share's weights, the first quad first: those of the run from `column` on. Zeros from column `columns` on.
template <Format format>
__device__ __forceinline__ void share_values(const uint8_t* row, int columns, int column, int share, float values[8]) {
    if constexpr (is_plain(format)) {
        column += first_quad<format>(share);
        if (column < columns) {
            plain_8<format>(row, columns, column, values);
        } else {
            for (int i = 0; i < 8; i++) values[i] = 0.0f;
        }
    } else {
        const uint8_t* block = block_at<format>(row, column);
        int run = run_in_block<format>(column);
        uint32_t quants[4];
        float scales[2], offsets[2];
        Stored<format>::quants(block, run, share, quants);
        Stored<format>::scales(block, run, scales, offsets);
        for (int i = 0; i < 4; i++) {
            values[2 * i] = __fmaf_rn(low_bf16(quants[i]), scales[i / 2], offsets[i / 2]);
            values[2 * i + 1] = __fmaf_rn(high_bf16(quants[i]), scales[i / 2], offsets[i / 2]);
        }
    }
}

#endif  // SHARDWIRE_FORMATS_CUH

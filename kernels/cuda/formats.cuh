// The storage formats of weights: how a lane reads its share of a row. Geometry: kernels/dtype.rs; what the numbers
// mean: kernels/matmul/dequantize.rs, which these match to the bit.
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

// Which of four lanes' shares, and how they are cut: as the head of this file says; or IN_ORDER, as fragments have their
// columns: in a quad's place, of its half of the run, two neighbours and those eight further on. (Not of TQ1_0.)
struct Share {
    int lane;
    bool in_order;

    __device__ __forceinline__ Share(int lane, bool in_order = false) : lane(lane), in_order(in_order) {}
};

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

// Where bytes are, and what this is modulo 4 where the compiler can know that (else −1): words that lie across two of
// four bytes are read in the fewest pieces.
struct Address {
    const uint8_t* at;
    int past;

    __device__ __forceinline__ Address(const uint8_t* at, int past = -1) : at(at), past(past) {}

    __device__ __forceinline__ Address operator+(int bytes) const {
        return Address(at + bytes, past < 0 ? past : (past + bytes) & 3);
    }

    __device__ __forceinline__ uint32_t operator[](int byte) const { return at[byte]; }
};

// The word at an address that is a multiple of `alignment`. Only words that hold some of its bytes are touched.
template <int alignment>
__device__ __forceinline__ uint32_t word_at(Address address) {
    if (alignment >= 4 || address.past == 0) return *reinterpret_cast<const uint32_t*>(address.at);
    if (alignment == 2 || address.past == 2) {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(address.at);
        return uint32_t(halves[0]) | uint32_t(halves[1]) << 16;
    }
    int past = address.past < 0 ? int(reinterpret_cast<uint64_t>(address.at) & 3) : address.past;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(address.at - past);
    return __funnelshift_r(words[0], words[past != 0], 8 * past);
}

// A share's four bytes of the sixteen at an address that is such a multiple.
template <int alignment>
__device__ __forceinline__ uint32_t quad_at(Address address, Share share) {
    if (!share.in_order) return word_at<alignment>(address + 4 * share.lane);
    if (alignment >= 2) {
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(address.at) + share.lane;
        return uint32_t(halves[0]) | uint32_t(halves[4]) << 16;
    }
    Address word = address + share.lane / 2 * 4;
    return __byte_perm(word_at<alignment>(word), word_at<alignment>(word + 8), share.lane % 2 ? 0x7632 : 0x5410);
}

template <int alignment>
__device__ __forceinline__ float half_at(Address address) {
    bool even = alignment >= 2 || address.past == 0 || address.past == 2;
    return to_float(even ? *reinterpret_cast<const f16*>(address.at) : f16{uint16_t(address[0] | address[1] << 8)});
}

__device__ __forceinline__ float float_at(Address address) { return *reinterpret_cast<const float*>(address.at); }

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

// a · b + c for both, rounded once.
__device__ __forceinline__ uint32_t multiply_add_pair(uint32_t a, uint32_t b, uint32_t c) {
#ifdef SIMT
    return pack_bf16(__fmaf_rn(low_bf16(a), low_bf16(b), low_bf16(c)),
                     __fmaf_rn(high_bf16(a), high_bf16(b), high_bf16(c)));
#else
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
#endif
}

// (bits & mask) | more, in one instruction, for which the compiler has to have both constants in registers.
template <uint32_t mask, uint32_t more>
__device__ __forceinline__ uint32_t masked_or(uint32_t bits) {
#ifdef SIMT
    return (bits & mask) | more;
#else
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(bits), "r"(mask), "r"(more));
    return result;
#endif
}

// The lower two bytes of a word, and the upper two, each in the lower half of 16 bits.
__device__ __forceinline__ uint32_t lower_pair(uint32_t bytes) { return __byte_perm(bytes, 0, 0x4140); }
__device__ __forceinline__ uint32_t upper_pair(uint32_t bytes) { return __byte_perm(bytes, 0, 0x4342); }

// Two integers of at most 7 bits, the `mask`ed ones of 16 bits each, minus `zero`. In the lowest bits of a bf16's
// mantissa such an integer is that much above 128.
template <uint32_t mask>
__device__ __forceinline__ uint32_t pair_minus(uint32_t pair, int zero) {
    uint32_t subtracted = 0xc300u | uint32_t(zero);
    return add_pair(masked_or<mask | mask << 16, 0x43004300u>(pair), subtracted << 16 | subtracted);
}

// Four such integers, in a byte each.
template <uint32_t mask>
__device__ __forceinline__ void quad_minus(uint32_t bytes, int zero, uint32_t quad[2]) {
    quad[0] = pair_minus<mask>(lower_pair(bytes), zero);
    quad[1] = pair_minus<mask>(upper_pair(bytes), zero);
}

// The low halves of four bytes, and the high ones.
__device__ __forceinline__ void nibbles_minus(uint32_t bytes, int zero, uint32_t quads[4]) {
    uint32_t lower = lower_pair(bytes), upper = upper_pair(bytes);
    quads[0] = pair_minus<15>(lower, zero);
    quads[1] = pair_minus<15>(upper, zero);
    quads[2] = pair_minus<15>(lower >> 4, zero);
    quads[3] = pair_minus<15>(upper >> 4, zero);
}

// Two signed bytes. The highest bit of each is worth −128: from 128 plus the rest, 128 is taken or 256.
__device__ __forceinline__ uint32_t signed_pair(uint32_t pair) {
    return add_pair(masked_or<0x007f007fu, 0x43004300u>(pair), masked_or<0x00800080u, 0xc300c300u>(pair));
}

__device__ __forceinline__ void signed_quad(uint32_t bytes, uint32_t quad[2]) {
    quad[0] = signed_pair(lower_pair(bytes));
    quad[1] = signed_pair(upper_pair(bytes));
}

// Numbers of FP8 (e4m3). Their exponent and mantissa become the lower ones of bf16's, where they are worth 2⁻¹²⁰ times
// as much (biases 7 and 127), subnormal numbers too.
__device__ __forceinline__ void e4m3_quad(uint32_t bytes, uint32_t quad[2]) {
    uint32_t pairs[2] = {__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424)};
    for (int i = 0; i < 2; i++) {
        uint32_t moved = (pairs[i] & 0x80008000u) | (pairs[i] >> 4 & 0x07f007f0u);
        quad[i] = multiply_pair(moved, 0x7b807b80u);
    }
}

// Twice the numbers of FP4 (e2m1), the nibbles at bit `at` of 16 bits each; likewise (biases 1 and 127), with 2¹²⁷. The
// nibble goes to two places by a product, of which sign, exponent and mantissa stay.
template <int at>
__device__ __forceinline__ uint32_t twice_e2m1_pair(uint32_t pair) {
    uint32_t moved = (pair & (0x000f000fu << at)) * (0x1040u >> at) & 0x81c081c0u;
    return multiply_pair(moved, 0x7f007f00u);
}

// What nibbles of IQ4_NL and IQ4_XS number: −127, −104, −83, −65, −49, −35, −22, −10, 1, 13, 25, 38, 53, 69, 89, 113.
__device__ __forceinline__ void iq4_quad(uint32_t nibbles, uint32_t quad[2]) {
    // The low bits of four nibbles choose a byte of each half of the table, and their highest bits a half.
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

// Four bytes of a run's sixteen, whose low halves are its first weights and the high ones the others, as two quads.
template <int alignment>
__device__ __forceinline__ void nibble_quads(Address at, Share share, uint32_t quads[2]) {
    uint32_t bytes = quad_at<alignment>(at, share);
    quads[0] = bytes & 0x0f0f0f0fu;
    quads[1] = bytes >> 4 & 0x0f0f0f0fu;
}

// A quad of 256 nibbles, the lower half of each byte: every 32 bytes hold two runs, low halves and high ones.
__device__ __forceinline__ uint32_t paired_nibbles(Address at, int run, Share share, int quad) {
    return quad_at<4>(at + run / 2 * 32 + 16 * quad, share) >> (run % 2 * 4);
}

// A quad of 256 numbers of two bits, the lowest of each byte: every 32 bytes hold four runs, the lowest bits first.
template <int alignment>
__device__ __forceinline__ uint32_t two_bits(Address at, int run, Share share, int quad) {
    return quad_at<alignment>(at + run / 4 * 32 + 16 * quad, share) >> (run % 4 * 2);
}

// Bit `bit` of a quad of 32 bytes, a run's, at the place `to` of each.
template <int alignment>
__device__ __forceinline__ uint32_t bit_of(Address at, int bit, int to, Share share, int quad) {
    return (quad_at<alignment>(at + 16 * quad, share) >> bit & 0x01010101u) << to;
}

// The fifth bits of a quad, of 32 in a word, at their place in each byte.
__device__ __forceinline__ uint32_t fifth_bits(uint32_t bits, Share share, int quad) {
    uint32_t four = bits >> (share.in_order ? 2 * share.lane + 16 * quad : 4 * share.lane + 16 * quad);
    four = share.in_order ? (four & 3) | (four >> 6 & 12) : four & 15;
    // Times 2⁰ + 2⁷ + 2¹⁴ + 2²¹, each of four bits is the lowest of a byte.
    return (four * 0x00204081u & 0x01010101u) << 4;
}

// Byte `at` of a word.
__device__ __forceinline__ uint32_t byte_of(uint32_t word, int at) { return word >> 8 * at & 255; }

__device__ __forceinline__ void same_scales(float scale, float offset, float scales[2], float offsets[2]) {
    scales[0] = scales[1] = scale;
    offsets[0] = offsets[1] = offset;
}

template <>
struct Stored<Q8_0> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        signed_quad(quad_at<2>(block + 2, share), quants);
        signed_quad(quad_at<2>(block + 18, share), quants + 2);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q4_0> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        nibbles_minus(quad_at<2>(block + 2, share), 8, quants);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q4_1> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        nibbles_minus(quad_at<4>(block + 4, share), 0, quants);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), half_at<2>(block + 2), scales, offsets);
    }
};

template <>
struct Stored<Q5_0> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        uint32_t quads[2], bits = word_at<2>(block + 2);
        nibble_quads<2>(block + 6, share, quads);
        for (int i = 0; i < 2; i++) quad_minus<31>(quads[i] | fifth_bits(bits, share, i), 16, quants + 2 * i);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<Q5_1> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        uint32_t quads[2], bits = word_at<4>(block + 4);
        nibble_quads<4>(block + 8, share, quads);
        for (int i = 0; i < 2; i++) quad_minus<31>(quads[i] | fifth_bits(bits, share, i), 0, quants + 2 * i);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), half_at<2>(block + 2), scales, offsets);
    }
};

template <>
struct Stored<Q2_K> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) quad_minus<3>(two_bits<4>(block + 16, run, share, i), 0, quants + 2 * i);
    }
    // Sixteen bytes, the scale of a group in the low half of its own.
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<4>(block + 80), minimum = -half_at<2>(block + 82);
        for (int i = 0; i < 2; i++) {
            uint32_t packed = byte_of(word_at<4>(block + run / 2 * 4), run % 2 * 2 + i);
            scales[i] = scale * float(packed & 15);
            offsets[i] = minimum * float(packed >> 4);
        }
    }
};

template <>
struct Stored<Q3_K> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) {
            uint32_t low = two_bits<2>(block + 32, run, share, i) & 0x03030303u;
            quad_minus<7>(low | bit_of<2>(block, run, 2, share, i), 4, quants + 2 * i);
        }
    }
    // Sixteen numbers of six bits: the lower four in eight bytes, the upper two in four.
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<2>(block + 108);
        for (int i = 0; i < 2; i++) {
            int group = 2 * run + i;
            uint32_t low = block[96 + group % 8] >> (group / 8 * 4) & 15;
            uint32_t high = block[104 + group % 4] >> (group / 4 * 2) & 3;
            scales[i] = scale * float(int(low | high << 4) - 32);
            offsets[i] = 0.0f;
        }
    }
};

// The scale and the minimum of one of eight groups, 6 bits each: in the first four bytes are scales 0–3, in the next
// four minima 0–3, their upper bits being those of scales and minima 4–7, whose lower four bits are the last four.
__device__ __forceinline__ void six_bit_scales(Address block, int run, float scales[2], float offsets[2]) {
    uint32_t first = word_at<4>(block + 4), second = word_at<4>(block + 8), last = word_at<4>(block + 12);
    first = byte_of(first, run % 4), second = byte_of(second, run % 4), last = byte_of(last, run % 4);
    uint32_t own_scale = run < 4 ? first & 63 : (last & 15) | first >> 6 << 4;
    uint32_t own_minimum = run < 4 ? second & 63 : last >> 4 | second >> 6 << 4;
    same_scales(half_at<4>(block) * float(own_scale), -half_at<2>(block + 2) * float(own_minimum), scales, offsets);
}

template <>
struct Stored<Q4_K> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) quad_minus<15>(paired_nibbles(block + 16, run, share, i), 0, quants + 2 * i);
    }
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        six_bit_scales(block, run, scales, offsets);
    }
};

template <>
struct Stored<Q5_K> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) {
            uint32_t low = paired_nibbles(block + 48, run, share, i) & 0x0f0f0f0fu;
            quad_minus<31>(low | bit_of<4>(block + 16, run, 4, share, i), 0, quants + 2 * i);
        }
    }
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        six_bit_scales(block, run, scales, offsets);
    }
};

template <>
struct Stored<Q6_K> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        int half = run / 4, quarter = run % 4;
        Address low = block + 64 * half + quarter % 2 * 32;
        Address high = block + 128 + 32 * half;
        for (int i = 0; i < 2; i++) {
            uint32_t bytes = quad_at<2>(low + 16 * i, share) >> (quarter / 2 * 4) & 0x0f0f0f0fu;
            bytes |= (quad_at<2>(high + 16 * i, share) >> (quarter * 2) & 0x03030303u) << 4;
            quad_minus<63>(bytes, 32, quants + 2 * i);
        }
    }
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        float scale = half_at<2>(block + 208);
        for (int i = 0; i < 2; i++) {
            scales[i] = scale * float(int8_t(block[192 + 2 * run + i]));
            offsets[i] = 0.0f;
        }
    }
};

template <>
struct Stored<IQ4_NL> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<2>(block + 2, share, quads);
        iq4_quad(quads[0], quants);
        iq4_quad(quads[1], quants + 2);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<IQ4_XS> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        uint32_t quads[2];
        nibble_quads<4>(block + 8 + 16 * run, share, quads);
        iq4_quad(quads[0], quants);
        iq4_quad(quads[1], quants + 2);
    }
    // Eight numbers of six bits, the upper two in bytes 2 and 3, the lower four in bytes 4 to 7.
    static __device__ __forceinline__ void scales(Address block, int run, float scales[2], float offsets[2]) {
        uint32_t low = block[4 + run / 2] >> (run % 2 * 4) & 15;
        uint32_t high = block[2 + run / 4] >> (run % 4 * 2) & 3;
        same_scales(half_at<4>(block) * float(int(low | high << 4) - 32), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<MXFP4> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        uint32_t bytes = quad_at<1>(block + 1, share), lower = lower_pair(bytes), upper = upper_pair(bytes);
        quants[0] = twice_e2m1_pair<0>(lower);
        quants[1] = twice_e2m1_pair<0>(upper);
        quants[2] = twice_e2m1_pair<4>(lower);
        quants[3] = twice_e2m1_pair<4>(upper);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_e8m0(block[0]), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<TQ1_0> {
    // A byte is a fraction of 256 whose digits in base three are the weights: the first 32 bytes hold five rows of 32,
    // the next 16 five rows of 16, the last four bytes four rows of four.
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) {
            int row = 2 * (run - 5) + i;
            int lane = share.lane;
            int at = run < 5 ? 16 * i + 4 * lane : row < 5 ? 32 + 4 * lane : 48;
            int digit = run < 5 ? run : row < 5 ? row : lane;
            uint32_t bytes = word_at<2>(block + at);
            uint32_t power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
            // The digits behind the point, then the first of them; two bytes at a time have room for the products.
            uint32_t pairs[2] = {lower_pair(bytes), upper_pair(bytes)};
            for (int j = 0; j < 2; j++) {
                uint32_t rest = pairs[j] * power & 0x00ff00ffu;
                quants[2 * i + j] = pair_minus<3>(rest * 3 >> 8, 1);
            }
        }
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block + 52), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<TQ2_0> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        for (int i = 0; i < 2; i++) quad_minus<3>(two_bits<2>(block, run, share, i), 1, quants + 2 * i);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<2>(block + 64), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT8> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        Address bytes = block + 4 + 32 * run;
        signed_quad(quad_at<4>(bytes, share), quants);
        signed_quad(quad_at<4>(bytes + 16, share), quants + 2);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(float_at(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT4> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        quants_above(block, run, share, zero(block), quants);
    }
    // For who reads several runs of a block: the zero point, and quants as they lie above it.
    static __device__ __forceinline__ int zero(Address block) { return block[2]; }
    static __device__ __forceinline__ void quants_above(Address block, int run, Share share, int zero,
                                                        uint32_t quants[4]) {
        nibbles_minus(quad_at<4>(block + 4 + 16 * run, share), zero, quants);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<4>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<WINT4G32> {
    static __device__ __forceinline__ void quants(Address block, int, Share share, uint32_t quants[4]) {
        nibbles_minus(quad_at<1>(block + 3, share), block[2], quants);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
        same_scales(half_at<1>(block), 0.0f, scales, offsets);
    }
};

template <>
struct Stored<F8_E4M3> {
    static __device__ __forceinline__ void quants(Address block, int run, Share share, uint32_t quants[4]) {
        Address bytes = block + 4 + 32 * run;
        e4m3_quad(quad_at<4>(bytes, share), quants);
        e4m3_quad(quad_at<4>(bytes + 16, share), quants + 2);
    }
    static __device__ __forceinline__ void scales(Address block, int, float scales[2], float offsets[2]) {
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

// Eight neighbouring weights of a plain row, from `column` on, a multiple of 8. A row ends at a multiple of 16 bytes
// with zeros; `columns` is where it ends without them, and nothing is read behind.
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

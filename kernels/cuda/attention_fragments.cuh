// Keys, values and queries as fragments of tensor-core products (PTX: mma.m16n8k16), whatever the cache's format.
//
// A lane is `g = lane / 4` and `t = lane % 4`. Of a product's 16 × 8 results it holds row g, columns 2t and 2t + 1, and
// row g + 8, the same columns. Keys and values come out of shared memory by ldmatrix, which moves 16-bit elements. A
// cache of bytes is moved by pairs of elements: a lane gets four neighbouring elements of a key where it needs elements 2t,
// 2t + 1, 2t + 8 and 2t + 9 of 16, and of values two neighbouring columns where it needs one. So the elements of a query
// are permuted in the same way, and columns of results are read off as they come.
//
// bf16 is multiplied as bf16. f16 keys would lose three bits that way, and bytes are expanded to f16 by two instructions
// a pair (FP8 by four where the hardware has no conversion): with both, queries and weights are rounded to f16.

#ifndef SHARDWIRE_ATTENTION_FRAGMENTS_CUH
#define SHARDWIRE_ATTENTION_FRAGMENTS_CUH

#include "attention.cuh"

template <class Format>
struct Multiplied {
    static __device__ __forceinline__ uint32_t pack(float low, float high) { return pack_f16(low, high); }
    static __device__ __forceinline__ void add(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        mma_m16n8k16_f16(d, a, b);
    }
};

template <>
struct Multiplied<BF16> {
    static __device__ __forceinline__ uint32_t pack(float low, float high) { return pack_bf16(low, high); }
    static __device__ __forceinline__ void add(float d[4], const uint32_t a[4], const uint32_t b[2]) {
        mma_m16n8k16_bf16(d, a, b);
    }
};

typedef Multiplied<FORMAT> Product;

// Elements of 16 bytes.
constexpr int PIECE = 16 / sizeof(Element);

// Bytes from one row of a tile in shared memory to the next: 16 more than it has, so that the same piece of eight
// neighbouring rows is in eight different groups of banks. (Pieces that change places would do as well, but then there are
// as many addresses as pieces to be kept in registers; of these there is one, the rest is in the instructions.)
constexpr int stride_of(int row_bytes) { return row_bytes + 16; }

// Where a piece of 16 bytes of a row lies in a tile.
template <int row_bytes>
__device__ __forceinline__ int piece_at(int row, int piece) {
    static_assert(row_bytes % 32 == 0, "the stride is an odd number of pieces");
    return row * stride_of(row_bytes) + piece * 16;
}

// Two binary16 times two others.
__device__ __forceinline__ uint32_t multiply_f16(uint32_t a, uint32_t b) {
#ifdef SIMT
    return pack_f16(half_to_float(uint16_t(a)) * half_to_float(uint16_t(b)),
                    half_to_float(uint16_t(a >> 16)) * half_to_float(uint16_t(b >> 16)));
#else
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
#endif
}

// Elements of one byte, of which a word has four, as f16: integers …
template <class Format>
struct Bytes {
    // The other sign bits make an integer `integer + 128`.
    static __device__ __forceinline__ uint32_t prepare(uint32_t word) { return word ^ 0x80808080; }

    // Two of a prepared word's.
    template <int first, int second>
    static __device__ __forceinline__ uint32_t pair(uint32_t prepared) {
        // 0x6400 is 1,024 in f16, whose last bits count ones.
        uint32_t plus_1152 = __byte_perm(prepared, 0x64646464, 0x4040 | first | second << 8);
        return subtract_f16(plus_1152, 0x64806480);
    }
};

// … and numbers of FP8.
template <>
struct Bytes<F8_E4M3> {
    static __device__ __forceinline__ uint32_t prepare(uint32_t word) { return word; }

    template <int first, int second>
    static __device__ __forceinline__ uint32_t pair(uint32_t word) {
#if !defined(SIMT) && __CUDA_ARCH__ >= 890
        uint32_t expanded;
        uint16_t bytes = uint16_t(__byte_perm(word, 0, 0x4400 | first | second << 4));
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(expanded) : "h"(bytes));
        return expanded;
#else
        // Exponent and mantissa become the lower ones of f16's, where they are worth 1/256 (biases 7 and 15).
        uint32_t high = __byte_perm(word, 0, 0x0404 | first << 4 | second << 12);
        return multiply_f16((high & 0x80008000u) | (high >> 1 & 0x3f803f80u), 0x5c005c00);
#endif
    }
};

template <int first, int second>
__device__ __forceinline__ uint32_t expand_bytes(uint32_t prepared) {
    return Bytes<FORMAT>::template pair<first, second>(prepared);
}

__device__ __forceinline__ uint32_t prepare_bytes(uint32_t word) { return Bytes<FORMAT>::prepare(word); }

// The fragments of 16 keys from `first_key` on, 32 bytes of each: calls `multiply(step, low, high)` for each step of 16
// elements, with the fragments of the first and the last eight keys.
template <int row_bytes, class Multiply>
__device__ __forceinline__ void with_keys(const uint8_t* tile, int first_key, int span, Multiply multiply) {
    int lane = threadIdx.x % 32;
    uint32_t r[4];
    ldmatrix_x4(r, tile + piece_at<row_bytes>(first_key + lane / 16 * 8 + lane % 8, 2 * span + lane / 8 % 2));
    if constexpr (sizeof(Element) == 2) {
        multiply(span, r, r + 2);
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t low = prepare_bytes(r[i]), high = prepare_bytes(r[2 + i]);
            uint32_t of_low[2] = {expand_bytes<0, 1>(low), expand_bytes<2, 3>(low)};
            uint32_t of_high[2] = {expand_bytes<0, 1>(high), expand_bytes<2, 3>(high)};
            multiply(2 * span + i, of_low, of_high);
        }
    }
}

// The fragments of eight keys from `first_key` on, 64 bytes of each: calls `multiply(i, b)` for each of their steps.
template <int row_bytes, class Multiply>
__device__ __forceinline__ void with_eight_keys(const uint8_t* tile, int first_key, int quad, Multiply multiply) {
    int lane = threadIdx.x % 32;
    uint32_t r[4];
    ldmatrix_x4(r, tile + piece_at<row_bytes>(first_key + lane % 8, 4 * quad + lane / 8));
#pragma unroll
    for (int i = 0; i < 4 / int(sizeof(Element)); i++) {
        if constexpr (sizeof(Element) == 2) {
            multiply(i, r + 2 * i);
        } else {
            uint32_t four = prepare_bytes(r[i]);
            uint32_t b[2] = {expand_bytes<0, 1>(four), expand_bytes<2, 3>(four)};
            multiply(i, b);
        }
    }
}

// The fragments of 16 values from `first_key` on, 32 bytes of each: calls `multiply(n, b)` for each eight columns; see
// `column_of`.
template <int row_bytes, class Multiply>
__device__ __forceinline__ void with_values(const uint8_t* tile, int first_key, int span, Multiply multiply) {
    int lane = threadIdx.x % 32;
    uint32_t r[4];
    ldmatrix_x4_trans(r, tile + piece_at<row_bytes>(first_key + lane / 8 % 2 * 8 + lane % 8, 2 * span + lane / 16));
    if constexpr (sizeof(Element) == 2) {
        multiply(2 * span, r);
        multiply(2 * span + 1, r + 2);
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t low = prepare_bytes(r[2 * i]), high = prepare_bytes(r[2 * i + 1]);
            uint32_t even[2] = {expand_bytes<0, 2>(low), expand_bytes<0, 2>(high)};
            uint32_t odd[2] = {expand_bytes<1, 3>(low), expand_bytes<1, 3>(high)};
            multiply(4 * span + 2 * i, even);
            multiply(4 * span + 2 * i + 1, odd);
        }
    }
}

// The column of a result: the lane's `i`-th of the `n`-th product of values.
__device__ __forceinline__ int column_of(int n, int i) {
    int t = threadIdx.x % 4;
    return sizeof(Element) == 2 ? 8 * n + 2 * t + i : 16 * (n / 2) + 4 * t + 2 * i + n % 2;
}

// The element of a query that a lane's fragment begins with, of 16; and how far from it the other pair is.
__device__ __forceinline__ int query_element() { return (sizeof(Element) == 2 ? 2 : 4) * (threadIdx.x % 4); }
constexpr int OTHER_PAIR = sizeof(Element) == 2 ? 8 : 2;

// Two neighbouring elements of a query.
__device__ __forceinline__ uint32_t query_pair(const act* from) {
    struct alignas(2 * sizeof(act)) Pair {
        act low, high;
    };
    Pair pair = *reinterpret_cast<const Pair*>(from);
    return Product::pack(to_float(pair.low), to_float(pair.high));
}

__device__ __forceinline__ const act* query_of(const Problem& problem, const Row& row) {
    return problem.qkv + int64_t(row.token) * problem.row_columns + row.head * problem.head_dim;
}

// A tile's queries as factors of products, [rows][dim] in shared memory; rows and elements that are not there are zeros.
template <int rows, int dim, int threads>
__device__ __forceinline__ void load_queries(const Problem& problem, const Tile& tile, uint8_t* to) {
    for (int index = threadIdx.x; index < rows * dim / 16; index += threads) {
        int at = index / (dim / 16), step = index % (dim / 16);
        Row row = row_of(tile, at);
        float elements[16] = {};
        const act* from = query_of(problem, row) + 16 * step;
        if (row.valid && 16 * step < problem.head_dim) load_8(from, elements);
        if (row.valid && 16 * step + 8 < problem.head_dim) load_8(from + 8, elements + 8);
        uint32_t pairs[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            // Where a fragment's second pair is the next one of the query, not that eight elements on.
            int first = OTHER_PAIR == 8 ? 2 * i : i % 4 * 4 + i / 4 * 2;
            pairs[i] = Product::pack(elements[first], elements[first + 1]);
        }
        uint4* low = reinterpret_cast<uint4*>(to + piece_at<2 * dim>(at, 2 * step));
        uint4* high = reinterpret_cast<uint4*>(to + piece_at<2 * dim>(at, 2 * step + 1));
        *low = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        *high = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
}

// The left factors of a step: 16 rows from `row` on of such queries.
template <int dim>
__device__ __forceinline__ void query_fragment(uint32_t r[4], const uint8_t* queries, int row, int step) {
    int lane = threadIdx.x % 32;
    ldmatrix_x4(r, queries + piece_at<2 * dim>(row + lane % 16, 2 * step + lane / 16));
}

// A lane's results of one row, of the two that it has, times `factor`; those of columns below `columns`.
template <class T, int products>
__device__ __forceinline__ void store_row(T* to, const float (&values)[products][4], int half, float factor, int columns) {
#pragma unroll
    for (int n = 0; n < products; n++) {
        int column = column_of(n, 0);
        const float* own = values[n] + 2 * half;
        if constexpr (sizeof(Element) == 2) {
            if (column < columns) store_2(to + column, own[0] * factor, own[1] * factor);
        } else if (n % 2 == 0 && column < columns) {
            const float* next = values[n + 1] + 2 * half;
            store_4(to + column, own[0] * factor, next[0] * factor, own[1] * factor, next[1] * factor);
        }
    }
}

// The greatest, or the sum, of the four lanes that hold a row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

#endif  // SHARDWIRE_ATTENTION_FRAGMENTS_CUH

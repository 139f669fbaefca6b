// Where lanes of a warp and threads of a block meet.
#pragma once

#include <cstring>

#include "fiber.hpp"

namespace simt {

constexpr uint32_t FULL_MASK = 0xffffffffu;

enum class WarpOperation : uint8_t {
    Sync,
    Shuffle,
    Ballot,
    Match,
    ReduceAdd,
    ReduceMin,
    ReduceMax,
    ReduceMinSigned,
    ReduceMaxSigned,
    ReduceAnd,
    ReduceOr,
    ReduceXor,
    LoadMatrix,
    LoadMatrixTransposed,
    MultiplyBf16,
    MultiplyF16,
    MultiplyTf32,
    MultiplyInt8,
};

// What a lane brings to a warp operation.
struct Operands {
    uint64_t value = 0;  // of a shuffle, vote or reduction
    int source = 0;      // the lane that a shuffle reads, or how many matrices ldmatrix loads
    void* to = nullptr;
    const void* a = nullptr;
    const void* b = nullptr;
};

// Waits until all lanes of the mask brought their operands, and returns this lane's result.
uint64_t meet(WarpOperation operation, uint32_t mask, const Operands& operands, Place place);

enum class Vote : uint8_t { None, Count, And, Or };

// Waits until all threads of the block are there.
int meet_block(Vote vote, int predicate, Place place);

template <class T>
T shuffle(uint32_t mask, T value, int source, Place place) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    Operands operands;
    memcpy(&operands.value, &value, sizeof(T));
    operands.source = source;
    uint64_t bits = meet(WarpOperation::Shuffle, mask, operands, place);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline uint64_t vote(WarpOperation operation, uint32_t mask, uint64_t value, Place place) {
    Operands operands;
    operands.value = value;
    return meet(operation, mask, operands, place);
}

void load_matrix(WarpOperation operation, int matrices, uint32_t* to, const void* row, Place place);

inline void multiply(WarpOperation operation, void* d, const void* a, const void* b, Place place) {
    Operands operands;
    operands.to = d;
    operands.a = a;
    operands.b = b;
    meet(operation, FULL_MASK, operands, place);
}

}  // namespace simt

#define SIMT_HERE simt::Place place = simt::Place::here()

inline void __syncthreads(SIMT_HERE) { simt::meet_block(simt::Vote::None, 0, place); }
inline int __syncthreads_count(int predicate, SIMT_HERE) {
    return simt::meet_block(simt::Vote::Count, predicate, place);
}
inline int __syncthreads_and(int predicate, SIMT_HERE) { return simt::meet_block(simt::Vote::And, predicate, place); }
inline int __syncthreads_or(int predicate, SIMT_HERE) { return simt::meet_block(simt::Vote::Or, predicate, place); }

inline void __syncwarp(uint32_t mask = simt::FULL_MASK, SIMT_HERE) {
    simt::meet(simt::WarpOperation::Sync, mask, {}, place);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SIMT_HERE) {
    int lane = simt::self().lane;
    return simt::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), place);
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int flipped, int width = 32, SIMT_HERE) {
    int lane = simt::self().lane;
    int source = lane ^ flipped;
    bool beyond = source > (lane | (width - 1));
    return simt::shuffle(mask, value, beyond ? lane : source, place);
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32, SIMT_HERE) {
    int lane = simt::self().lane;
    bool beyond = (lane & (width - 1)) + int(by) >= width;
    return simt::shuffle(mask, value, beyond ? lane : lane + int(by), place);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32, SIMT_HERE) {
    int lane = simt::self().lane;
    bool beyond = (lane & (width - 1)) < int(by);
    return simt::shuffle(mask, value, beyond ? lane : lane - int(by), place);
}

inline unsigned __ballot_sync(uint32_t mask, int predicate, SIMT_HERE) {
    return unsigned(simt::vote(simt::WarpOperation::Ballot, mask, predicate != 0, place));
}
inline int __any_sync(uint32_t mask, int predicate, SIMT_HERE) { return __ballot_sync(mask, predicate, place) != 0; }
inline int __all_sync(uint32_t mask, int predicate, SIMT_HERE) { return __ballot_sync(mask, predicate, place) == mask; }

template <class T>
unsigned __match_any_sync(uint32_t mask, T value, SIMT_HERE) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return unsigned(simt::vote(simt::WarpOperation::Match, mask, bits, place));
}

#define SIMT_REDUCE(name, type, operation)                                                     \
    inline type name(uint32_t mask, type value, SIMT_HERE) {                                   \
        return type(simt::vote(simt::WarpOperation::operation, mask, uint32_t(value), place)); \
    }
SIMT_REDUCE(__reduce_add_sync, unsigned, ReduceAdd)
SIMT_REDUCE(__reduce_add_sync, int, ReduceAdd)
SIMT_REDUCE(__reduce_min_sync, unsigned, ReduceMin)
SIMT_REDUCE(__reduce_min_sync, int, ReduceMinSigned)
SIMT_REDUCE(__reduce_max_sync, unsigned, ReduceMax)
SIMT_REDUCE(__reduce_max_sync, int, ReduceMaxSigned)
SIMT_REDUCE(__reduce_and_sync, unsigned, ReduceAnd)
SIMT_REDUCE(__reduce_or_sync, unsigned, ReduceOr)
SIMT_REDUCE(__reduce_xor_sync, unsigned, ReduceXor)
#undef SIMT_REDUCE

// D += A·B on fragments as PTX lays them out. Products are added in f32 by ascending k, and their sum then to D;
// the GPU's order and its inner precision differ.
inline void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_HERE) {
    simt::multiply(simt::WarpOperation::MultiplyBf16, d, a, b, place);
}
inline void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_HERE) {
    simt::multiply(simt::WarpOperation::MultiplyF16, d, a, b, place);
}
inline void mma_m16n8k8_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_HERE) {
    simt::multiply(simt::WarpOperation::MultiplyTf32, d, a, b, place);
}
inline void mma_m16n8k32_s8(int d[4], const uint32_t a[4], const uint32_t b[2], SIMT_HERE) {
    simt::multiply(simt::WarpOperation::MultiplyInt8, d, a, b, place);
}

// Matrices of 8×8 16-bit elements; lane 8·i + r gives the address of row r of matrix i.
inline void ldmatrix_x1(uint32_t r[1], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrix, 1, r, row, place);
}
inline void ldmatrix_x2(uint32_t r[2], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrix, 2, r, row, place);
}
inline void ldmatrix_x4(uint32_t r[4], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrix, 4, r, row, place);
}
inline void ldmatrix_x1_trans(uint32_t r[1], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrixTransposed, 1, r, row, place);
}
inline void ldmatrix_x2_trans(uint32_t r[2], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrixTransposed, 2, r, row, place);
}
inline void ldmatrix_x4_trans(uint32_t r[4], const void* row, SIMT_HERE) {
    simt::load_matrix(simt::WarpOperation::LoadMatrixTransposed, 4, r, row, place);
}

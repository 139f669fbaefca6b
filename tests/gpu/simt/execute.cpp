// What warp operations compute, once all lanes brought their operands.
#include <cstring>
#include <string>

#include "arithmetic.hpp"
#include "block.hpp"
#include "traffic.hpp"

namespace simt {

namespace {

void shuffle_lanes(Warp& warp, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        int source = warp.operands[lane].source & 31;
        if (!(mask >> source & 1)) {
            std::string what = "lane " + std::to_string(lane) + " of its warp shuffles from lane " +
                               std::to_string(source) + ", which is not in the mask";
            fail(what.c_str(), self().place);
        }
        warp.results[lane] = warp.operands[source].value;
    }
}

void give_all(Warp& warp, uint32_t mask, uint64_t result) {
    for (; mask; mask &= mask - 1) warp.results[__builtin_ctz(mask)] = result;
}

void ballot(Warp& warp, uint32_t mask) {
    uint32_t votes = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        votes |= uint32_t(warp.operands[lane].value) << lane;
    }
    give_all(warp, mask, votes);
}

void match(Warp& warp, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        uint32_t same = 0;
        for (uint32_t others = mask; others; others &= others - 1) {
            int other = __builtin_ctz(others);
            same |= uint32_t(warp.operands[other].value == warp.operands[lane].value) << other;
        }
        warp.results[lane] = same;
    }
}

template <class T, class Combine>
void reduce(Warp& warp, uint32_t mask, Combine combine) {
    T total = T(warp.operands[__builtin_ctz(mask)].value);
    for (uint32_t rest = mask & (mask - 1); rest; rest &= rest - 1) {
        total = combine(total, T(warp.operands[__builtin_ctz(rest)].value));
    }
    give_all(warp, mask, uint32_t(total));
}

// Lane l gets elements 2·(l mod 4) and the next of row l / 4, transposed of column l / 4.
void load_matrices(Warp& warp, bool transposed) {
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        uint32_t* to = static_cast<uint32_t*>(warp.operands[lane].to);
        for (int matrix = 0; matrix < warp.operands[lane].source; matrix++) {
            auto element = [&](int row, int column) {
                const void* row_start = warp.operands[matrix * 8 + row].a;
                return uint32_t(static_cast<const uint16_t*>(row_start)[column]);
            };
            int along = lane / 4, across = lane % 4 * 2;
            uint32_t low = transposed ? element(across, along) : element(along, across);
            uint32_t high = transposed ? element(across + 1, along) : element(along, across + 1);
            to[matrix] = low | high << 16;
        }
    }
}

float from_bf16(uint32_t bits) {
    bits <<= 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float from_f16(uint32_t bits) { return half_to_float(uint16_t(bits)); }

float from_tf32(uint32_t bits) {
    bits &= ~0x1fffu;  // the hardware does not look at them
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef float Row __attribute__((vector_size(32)));

// Fragments of m16n8kK: a register has `PACKED` elements that lie side by side along k.
template <int K, int PACKED, class Convert>
void multiply_floats(Warp& warp, Convert convert) {
    constexpr int BITS = 32 / PACKED;
    constexpr uint32_t ELEMENT = BITS == 32 ? ~0u : (1u << (BITS & 31)) - 1;
    float a[16][K];
    Row b[K];
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        const uint32_t* a_registers = static_cast<const uint32_t*>(warp.operands[lane].a);
        const uint32_t* b_registers = static_cast<const uint32_t*>(warp.operands[lane].b);
        int group = lane / 4, k = lane % 4 * PACKED;
        for (int element = 0; element < PACKED; element++) {
            for (int part = 0; part < 4; part++) {
                uint32_t bits = a_registers[part] >> element * BITS % 32 & ELEMENT;
                a[group + part % 2 * 8][k + element + part / 2 * K / 2] = convert(bits);
            }
            for (int part = 0; part < 2; part++) {
                uint32_t bits = b_registers[part] >> element * BITS % 32 & ELEMENT;
                b[k + element + part * K / 2][group] = convert(bits);
            }
        }
    }
    for (int row = 0; row < 16; row++) {
        Row sum = {};
        for (int k = 0; k < K; k++) sum += a[row][k] * b[k];
        for (int column = 0; column < 8; column++) {
            int lane = row % 8 * 4 + column / 2;
            static_cast<float*>(warp.operands[lane].to)[row / 8 * 2 + column % 2] += sum[column];
        }
    }
}

void multiply_int8(Warp& warp) {
    int8_t a[16][32];
    int8_t b[8][32];
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        const uint32_t* a_registers = static_cast<const uint32_t*>(warp.operands[lane].a);
        const uint32_t* b_registers = static_cast<const uint32_t*>(warp.operands[lane].b);
        int group = lane / 4, k = lane % 4 * 4;
        for (int part = 0; part < 4; part++) memcpy(&a[group + part % 2 * 8][k + part / 2 * 16], &a_registers[part], 4);
        for (int part = 0; part < 2; part++) memcpy(&b[group][k + part * 16], &b_registers[part], 4);
    }
    for (int row = 0; row < 16; row++) {
        for (int column = 0; column < 8; column++) {
            int sum = 0;
            for (int k = 0; k < 32; k++) sum += a[row][k] * b[column][k];
            int lane = row % 8 * 4 + column / 2;
            static_cast<int*>(warp.operands[lane].to)[row / 8 * 2 + column % 2] += sum;
        }
    }
}

}  // namespace

namespace {

// Additions and multiplications of a tensor-core product; of other operations none.
int operations_of(WarpOperation operation) {
    constexpr int PER_K = 2 * 16 * 8;
    switch (operation) {
        case WarpOperation::MultiplyBf16:
        case WarpOperation::MultiplyF16: return PER_K * 16;
        case WarpOperation::MultiplyTf32: return PER_K * 8;
        case WarpOperation::MultiplyInt8: return PER_K * 32;
        default: return 0;
    }
}

}  // namespace

void execute(Warp& warp, WarpOperation operation, uint32_t mask) {
    if (COUNTS) warp.block->traffic->tensor_operations += uint64_t(operations_of(operation));
    switch (operation) {
        case WarpOperation::Sync: return;
        case WarpOperation::Shuffle: return shuffle_lanes(warp, mask);
        case WarpOperation::Ballot: return ballot(warp, mask);
        case WarpOperation::Match: return match(warp, mask);
        case WarpOperation::ReduceAdd: return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a + b; });
        case WarpOperation::ReduceMin:
            return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a < b ? a : b; });
        case WarpOperation::ReduceMax:
            return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a > b ? a : b; });
        case WarpOperation::ReduceMinSigned:
            return reduce<int32_t>(warp, mask, [](auto a, auto b) { return a < b ? a : b; });
        case WarpOperation::ReduceMaxSigned:
            return reduce<int32_t>(warp, mask, [](auto a, auto b) { return a > b ? a : b; });
        case WarpOperation::ReduceAnd: return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a & b; });
        case WarpOperation::ReduceOr: return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a | b; });
        case WarpOperation::ReduceXor: return reduce<uint32_t>(warp, mask, [](auto a, auto b) { return a ^ b; });
        case WarpOperation::LoadMatrix: return load_matrices(warp, false);
        case WarpOperation::LoadMatrixTransposed: return load_matrices(warp, true);
        case WarpOperation::MultiplyBf16: return multiply_floats<16, 2>(warp, from_bf16);
        case WarpOperation::MultiplyF16: return multiply_floats<16, 2>(warp, from_f16);
        case WarpOperation::MultiplyTf32: return multiply_floats<8, 1>(warp, from_tf32);
        case WarpOperation::MultiplyInt8: return multiply_int8(warp);
    }
}

void load_matrix(WarpOperation operation, int matrices, uint32_t* to, const void* row, Place place) {
    if (self().lane < matrices * 8 && reinterpret_cast<uintptr_t>(row) % 16) {
        fail("gives ldmatrix a row that is not aligned to 16 bytes", place);
    }
    Operands operands;
    operands.source = matrices;
    operands.to = to;
    operands.a = row;
    meet(operation, FULL_MASK, operands, place);
}

}  // namespace simt

// Products of warpgroups out of shared memory, and barriers that lie in it; right, and each rule once broken.

#include "device.cuh"
#include "warpgroups.cuh"

#define ROWS 64
#define COLUMNS 128
#define DEPTH 64
#define LEFT_BYTES (ROWS * SWIZZLED_ROW)
// Of b with rows along the result's columns: 64 of them.
#define HALF_BYTES (DEPTH * SWIZZLED_ROW)

enum Fault {
    NONE,
    NOT_HANDED_OVER,  // no fence of the async proxy
    NOT_TOGETHER,     // no barrier between what threads wrote and products
    NOT_FENCED,       // no fence of the warpgroup
    NOT_WAITED,
    WAITED_TOO_LITTLE,
    FACTOR_CHANGED,  // before it was waited for
    SUM_CHANGED,
    LANES_DIFFER,
    WARPS_DIFFER,
    NOT_SWIZZLED,  // as the product is told
    BEYOND,        // the block's shared memory
};

__device__ uint8_t* aligned(uint8_t* shared) {
    return shared + (SWIZZLED_ALIGNMENT - shared_address(shared) % SWIZZLED_ALIGNMENT) % SWIZZLED_ALIGNMENT;
}

// Rows of 64 16-bit numbers to a tile. Each of 128 threads takes the pieces of others than those that it multiplies.
__device__ void store_tile(uint8_t* tile, const uint16_t* from, int rows, int row_elements) {
    for (int at = int(threadIdx.x); at < rows * 8; at += int(blockDim.x)) {
        int row = rows - 1 - at / 8, piece = at % 8;
        const uint32_t* words = reinterpret_cast<const uint32_t*>(from + row * row_elements + piece * 8);
        store_factors(tile + swizzled_piece(row, piece), make_uint4(words[0], words[1], words[2], words[3]));
    }
}

template <int SUMS>
__device__ void store_sums(float* c, const float (&sums)[SUMS]) {
    int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, column = int(threadIdx.x) % 4 * 2;
    for (int i = 0; i < SUMS; i++) c[(row + i / 2 % 2 * 8) * 2 * SUMS + i / 4 * 8 + column + i % 2] = sums[i];
}

// Of a [64, 64] what a thread has of fragment `step`, in registers.
__device__ void load_factor(const uint16_t* a, int step, uint32_t* factor) {
    int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, k = int(threadIdx.x) % 4 * 2;
    for (int i = 0; i < 4; i++) {
        int at = (row + i % 2 * 8) * DEPTH + step * 16 + i / 2 * 8 + k;
        factor[i] = *reinterpret_cast<const uint32_t*>(a + at);
    }
}

// c [64, 128] = a [64, 64] · b [128, 64]ᵀ
template <bool IS_BF16, Fault FAULT>
__device__ void rows(float* c, const uint16_t* a, const uint16_t* b) {
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t* left = aligned(shared);
    uint8_t* right = left + LEFT_BYTES;
    store_tile(left, a, ROWS, DEPTH);
    store_tile(right, b, COLUMNS, DEPTH);
    if (FAULT != NOT_HANDED_OVER) fence_async_proxy();
    if (FAULT != NOT_TOGETHER) __syncthreads();

    float sums[64];
    if (FAULT != NOT_FENCED) warpgroup_fence();
    for (int step = 0; step < DEPTH / 16; step++) {
        uint64_t of_left = swizzled_tile(left + 32 * step, 0), of_right = swizzled_tile(right + 32 * step, 0);
        if (FAULT == LANES_DIFFER && threadIdx.x % 32 == 7) of_left = swizzled_tile(left, 0);
        if (FAULT == WARPS_DIFFER && threadIdx.x / 32 == 2) of_right = swizzled_tile(right, 0);
        if (FAULT == NOT_SWIZZLED) of_right &= ~(uint64_t(1) << 62);
        if (FAULT == BEYOND) of_right = swizzled_tile(right + 32 * SWIZZLED_ROW + 32 * step, 0);
        if (IS_BF16) {
            warpgroup_rows_bf16(sums, of_left, of_right, step > 0);
        } else {
            warpgroup_rows_f16(sums, of_left, of_right, step > 0);
        }
    }
    warpgroup_commit();
    if (FAULT == FACTOR_CHANGED) left[threadIdx.x] ^= 1;
    if (FAULT == SUM_CHANGED) sums[5] = 0.0f;
    if (FAULT == WAITED_TOO_LITTLE) {
        warpgroup_wait<1>(sums);
    } else if (FAULT != NOT_WAITED) {
        warpgroup_wait<0>(sums);
    }
    store_sums(c, sums);
    if (FAULT == WAITED_TOO_LITTLE) warpgroup_wait<0>(sums);
}

KERNEL(rows_bf16, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, NONE>(c, a, b); }
KERNEL(rows_f16, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<false, NONE>(c, a, b); }
KERNEL(rows_not_handed_over_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, NOT_HANDED_OVER>(c, a, b);
}
KERNEL(rows_not_together_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, NOT_TOGETHER>(c, a, b);
}
KERNEL(rows_not_fenced_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, NOT_FENCED>(c, a, b); }
KERNEL(rows_not_waited_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, NOT_WAITED>(c, a, b); }
KERNEL(rows_waited_too_little_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, WAITED_TOO_LITTLE>(c, a, b);
}
KERNEL(rows_factor_changed_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, FACTOR_CHANGED>(c, a, b);
}
KERNEL(rows_sum_changed_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, SUM_CHANGED>(c, a, b);
}
KERNEL(rows_of_lanes_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, LANES_DIFFER>(c, a, b); }
KERNEL(rows_of_warps_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, WARPS_DIFFER>(c, a, b); }
KERNEL(rows_not_swizzled_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    rows<true, NOT_SWIZZLED>(c, a, b);
}
KERNEL(rows_beyond_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) { rows<true, BEYOND>(c, a, b); }

// c [64, 128] = c + a [64, 64] · b [64, 128], a in registers; b came by asynchronous copies.
template <bool IS_BF16, bool HANDED_OVER>
__device__ void columns(float* c, const uint16_t* a, const uint16_t* b) {
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t* right = aligned(shared);
    for (int at = int(threadIdx.x); at < DEPTH * COLUMNS / 8; at += int(blockDim.x)) {
        int row = at / 16, piece = at % 16;
        uint8_t* to = right + piece / 8 * HALF_BYTES + swizzled_piece(row, piece % 8);
        copy_async_16(to, b + row * COLUMNS + piece * 8, true);
    }
    copy_async_commit();
    copy_async_wait<0>();
    if (HANDED_OVER) fence_async_proxy();
    __syncthreads();

    int row = int(threadIdx.x) / 32 * 16 + int(threadIdx.x) % 32 / 4, k = int(threadIdx.x) % 4 * 2;
    float sums[64];
    for (int i = 0; i < 64; i++) sums[i] = c[(row + i / 2 % 2 * 8) * COLUMNS + i / 4 * 8 + k + i % 2];
    uint32_t factors[DEPTH / 16][4];
    for (int step = 0; step < DEPTH / 16; step++) load_factor(a, step, factors[step]);
    warpgroup_fence();
    for (int step = 0; step < DEPTH / 16; step++) {
        uint64_t of_right = swizzled_tile(right + step * 16 * SWIZZLED_ROW, HALF_BYTES);
        if (IS_BF16) {
            warpgroup_columns_bf16(sums, factors[step], of_right);
        } else {
            warpgroup_columns_f16(sums, factors[step], of_right);
        }
    }
    warpgroup_commit();
    warpgroup_wait<0>(sums);
    store_sums(c, sums);
}

KERNEL(columns_bf16, 128)(float* c, const uint16_t* a, const uint16_t* b) { columns<true, true>(c, a, b); }
KERNEL(columns_f16, 128)(float* c, const uint16_t* a, const uint16_t* b) { columns<false, true>(c, a, b); }
KERNEL(columns_not_handed_over_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    columns<true, false>(c, a, b);
}

// c [64, 2 · SUMS] = a [64, 64] · b [2 · SUMS, 64]ᵀ, a in registers: two factors in turn, each loaded while the other is
// multiplied.
template <int SUMS, Fault FAULT>
__device__ void adds(float* c, const uint16_t* a, const uint16_t* b) {
    DYNAMIC_SHARED(uint8_t, shared);
    uint8_t* right = aligned(shared);
    store_tile(right, b, 2 * SUMS, DEPTH);
    fence_async_proxy();
    __syncthreads();
    float sums[SUMS];
    uint32_t factors[2][4];
    for (int step = 0; step < DEPTH / 16; step++) {
        load_factor(a, step, factors[step % 2]);
        warpgroup_fence();
        warpgroup_add_bf16(sums, factors[step % 2], swizzled_tile(right + 32 * step, 0), step > 0);
        warpgroup_commit();
        if (FAULT != WAITED_TOO_LITTLE) warpgroup_wait<1>();
    }
    warpgroup_wait<0>(sums);
    store_sums(c, sums);
}

KERNEL(adds_32_bf16, 128)(float* c, const uint16_t* a, const uint16_t* b) { adds<16, NONE>(c, a, b); }
KERNEL(adds_64_bf16, 128)(float* c, const uint16_t* a, const uint16_t* b) { adds<32, NONE>(c, a, b); }
KERNEL(adds_128_bf16, 128)(float* c, const uint16_t* a, const uint16_t* b) { adds<64, NONE>(c, a, b); }
KERNEL(adds_waited_too_little_wrong, 128)(float* c, const uint16_t* a, const uint16_t* b) {
    adds<64, WAITED_TOO_LITTLE>(c, a, b);
}

enum BarrierFault {
    RIGHT,
    NOT_INITIALIZED,
    FULL_NOT_AWAITED,
    EMPTY_NOT_AWAITED,
    TOO_FEW_EXPECTED,
    TOO_MANY_EXPECTED,
    OTHER_PARITY,
};

// y = 2 · x, 32 numbers a step: one warp brings them, two others take a half each, through two slots.
template <BarrierFault FAULT>
__device__ void pass_through(float* y, const float* x, int steps) {
    __shared__ float slots[2][32];
    __shared__ uint64_t full[2], empty[2];
    int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    if (threadIdx.x == 0 && FAULT != NOT_INITIALIZED) {
        for (int at = 0; at < 2; at++) {
            barrier_init(full + at, 1);
            barrier_init(empty + at, FAULT == TOO_FEW_EXPECTED ? 1 : FAULT == TOO_MANY_EXPECTED ? 3 : 2);
        }
    }
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        int slot = step % 2, use = step / 2;
        if (warp == 0) {
            if (use > 0 && FAULT != EMPTY_NOT_AWAITED) barrier_wait(empty + slot, (use - 1) % 2);
            slots[slot][lane] = x[step * 32 + lane];
            __syncwarp();
            if (lane == 0) barrier_arrive(full + slot);
        } else {
            if (FAULT != FULL_NOT_AWAITED) barrier_wait(full + slot, FAULT == OTHER_PARITY ? 1 - use % 2 : use % 2);
            int at = (warp - 1) * 16 + lane % 16;
            if (lane < 16) y[step * 32 + at] = 2 * slots[slot][at];
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + slot);
        }
    }
}

KERNEL(hand_on, 96)(float* y, const float* x, int steps) { pass_through<RIGHT>(y, x, steps); }
KERNEL(hand_on_not_initialized_wrong, 96)(float* y, const float* x, int steps) {
    pass_through<NOT_INITIALIZED>(y, x, steps);
}
KERNEL(hand_on_full_not_awaited_wrong, 96)(float* y, const float* x, int steps) {
    pass_through<FULL_NOT_AWAITED>(y, x, steps);
}
KERNEL(hand_on_empty_not_awaited_wrong, 96)(float* y, const float* x, int steps) {
    pass_through<EMPTY_NOT_AWAITED>(y, x, steps);
}
KERNEL(hand_on_too_few_wrong, 96)(float* y, const float* x, int steps) { pass_through<TOO_FEW_EXPECTED>(y, x, steps); }
KERNEL(hand_on_too_many_wrong, 96)(float* y, const float* x, int steps) {
    pass_through<TOO_MANY_EXPECTED>(y, x, steps);
}
KERNEL(hand_on_other_parity_wrong, 96)(float* y, const float* x, int steps) { pass_through<OTHER_PARITY>(y, x, steps); }

// Registers of one warpgroup for two others.
template <int GIVEN, int TAKEN>
__device__ void share_registers(float* y) {
    if (threadIdx.x < 128) {
        give_registers<GIVEN>();
    } else {
        take_registers<TAKEN>();
    }
    y[threadIdx.x] = float(threadIdx.x);
}

KERNEL(registers_shared, 384)(float* y) { share_registers<24, 240>(y); }
KERNEL(registers_too_many_wrong, 384)(float* y) { share_registers<56, 240>(y); }
KERNEL(registers_of_no_number_wrong, 384)(float* y) { share_registers<20, 240>(y); }

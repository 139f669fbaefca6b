// Copies of boxes to shared memory; right, and each rule once broken.

#include "device.cuh"
#include "tensor_map.cuh"
#include "warpgroups.cuh"

#define COLUMNS 64
#define ROWS 16
#define BOX_BYTES (ROWS * SWIZZLED_ROW)
#define BOXES 2

enum Fault {
    NONE,
    NOTHING_EXPECTED,
    TOO_LITTLE_EXPECTED,
    TOO_MUCH_EXPECTED,
    ARRIVED_TWICE,
    NOT_WAITED,
    OTHER_PARITY,
    BARRIER_NOT_HANDED_OVER,
    NO_BARRIER,
    WRITES_NOT_HANDED_OVER,  // of what the copy overwrites
    MISALIGNED,
    BEYOND,  // the block's shared memory
    TO_ONE_PLACE,
};

struct Maps {
    TensorMap first, second;
};

// y [2][16][64] = the boxes of two matrices that begin at (column, row), which are fetched anew in each step.
template <Fault FAULT>
__device__ void copy(uint16_t* y, const Maps& maps, int column, int row, int steps) {
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ uint64_t came;
    uint8_t* to = shared + (SWIZZLED_ALIGNMENT - shared_address(shared) % SWIZZLED_ALIGNMENT) % SWIZZLED_ALIGNMENT;
    if (FAULT == MISALIGNED) to += 128;
    if (FAULT == BEYOND) to += BOX_BYTES;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(maps.first);
        if (FAULT != NO_BARRIER) barrier_init(&came, 1);
        if (FAULT != BARRIER_NOT_HANDED_OVER) fence_async_proxy();
    }
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        if (threadIdx.x == 0) {
            int bytes = FAULT == TOO_LITTLE_EXPECTED ? BOX_BYTES : BOXES * BOX_BYTES;
            if (FAULT == TOO_MUCH_EXPECTED) bytes += 16;
            if (FAULT == NOTHING_EXPECTED) {
                barrier_arrive(&came);
            } else {
                barrier_arrive_expecting(&came, bytes);
            }
            if (FAULT == ARRIVED_TWICE) barrier_arrive(&came);
            copy_box(to, maps.first, column, row, &came);
            copy_box(FAULT == TO_ONE_PLACE ? to : to + BOX_BYTES, maps.second, column, row, &came);
        }
        if (FAULT != NOT_WAITED) barrier_wait(&came, FAULT == OTHER_PARITY ? 1 - step % 2 : step % 2);
        for (int at = int(threadIdx.x); at < BOXES * ROWS * 8; at += 32) {
            const uint8_t* from = to + at / (ROWS * 8) * BOX_BYTES + swizzled_piece(at / 8 % ROWS, at % 8);
            reinterpret_cast<uint4*>(y)[at] = *reinterpret_cast<const uint4*>(from);
        }
        __syncwarp();
        if (step + 1 == steps) break;
        for (int at = int(threadIdx.x); at < BOXES * BOX_BYTES / 16; at += 32) {
            store_factors(to + 16 * at, make_uint4(0, 0, 0, 0));
        }
        if (FAULT != WRITES_NOT_HANDED_OVER) fence_async_proxy();
        __syncwarp();
    }
}

#define ARGUMENTS uint16_t *y, const __grid_constant__ Maps maps, int column, int row, int steps
#define COPY(fault) copy<fault>(y, maps, column, row, steps)
KERNEL(boxes, 32)(ARGUMENTS) { COPY(NONE); }
KERNEL(boxes_nothing_expected_wrong, 32)(ARGUMENTS) { COPY(NOTHING_EXPECTED); }
KERNEL(boxes_too_little_expected_wrong, 32)(ARGUMENTS) { COPY(TOO_LITTLE_EXPECTED); }
KERNEL(boxes_too_much_expected_wrong, 32)(ARGUMENTS) { COPY(TOO_MUCH_EXPECTED); }
KERNEL(boxes_arrived_twice_wrong, 32)(ARGUMENTS) { COPY(ARRIVED_TWICE); }
KERNEL(boxes_not_waited_wrong, 32)(ARGUMENTS) { COPY(NOT_WAITED); }
KERNEL(boxes_other_parity_wrong, 32)(ARGUMENTS) { COPY(OTHER_PARITY); }
KERNEL(boxes_barrier_not_handed_over_wrong, 32)(ARGUMENTS) { COPY(BARRIER_NOT_HANDED_OVER); }
KERNEL(boxes_no_barrier_wrong, 32)(ARGUMENTS) { COPY(NO_BARRIER); }
KERNEL(boxes_writes_not_handed_over_wrong, 32)(ARGUMENTS) { COPY(WRITES_NOT_HANDED_OVER); }
KERNEL(boxes_misaligned_wrong, 32)(ARGUMENTS) { COPY(MISALIGNED); }
KERNEL(boxes_beyond_wrong, 32)(ARGUMENTS) { COPY(BEYOND); }
KERNEL(boxes_to_one_place_wrong, 32)(ARGUMENTS) { COPY(TO_ONE_PLACE); }

// y [16][144] = the bytes of a box of the first map, whose rows are not swizzled.
#define BYTES 144
KERNEL(boxes_of_bytes, 32)(uint8_t *y, const __grid_constant__ Maps maps, int column, int row, int misplaced) {
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ uint64_t came;
    uint8_t* to = shared + (128 - shared_address(shared) % 128) % 128 + misplaced;
    if (threadIdx.x == 0) {
        barrier_init(&came, 1);
        fence_async_proxy();
        barrier_arrive_expecting(&came, ROWS * BYTES);
        copy_box(to, maps.first, column, row, &came);
    }
    __syncwarp();
    barrier_wait(&came, 0);
    for (int at = int(threadIdx.x); at < ROWS * BYTES; at += 32) y[at] = to[at];
}

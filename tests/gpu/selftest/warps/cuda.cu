// Operations of a warp's lanes, together and apart.

#include "device.cuh"

// Everything that lanes can tell each other, folded into one number per lane.
KERNEL(tell, 32)(unsigned* y, const unsigned* x) {
    unsigned lane = threadIdx.x, mine = x[lane];
    unsigned even = __ballot_sync(ALL_LANES, mine % 2 == 0);
    y[lane] = __shfl_sync(ALL_LANES, mine, int(lane) * 7);
    y[32 + lane] = __shfl_xor_sync(ALL_LANES, mine, 5);
    y[64 + lane] = __shfl_down_sync(ALL_LANES, mine, 3);
    y[96 + lane] = __shfl_up_sync(ALL_LANES, mine, 3, 8);
    y[128 + lane] = even;
    y[160 + lane] = unsigned(__any_sync(ALL_LANES, mine == 7)) * 2 + unsigned(__all_sync(ALL_LANES, mine < 1000));
    y[192 + lane] = __reduce_max_sync(ALL_LANES, mine) + __reduce_add_sync(ALL_LANES, mine);
    y[224 + lane] = __match_any_sync(ALL_LANES, mine % 4);
}

// Halves of a warp each among themselves.
KERNEL(halves, 32)(unsigned* y, const unsigned* x) {
    unsigned lane = threadIdx.x, mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    unsigned sum = x[lane];
    for (int distance = 8; distance > 0; distance /= 2) sum += __shfl_xor_sync(mask, sum, distance);
    y[lane] = sum;
}

KERNEL(diverge_wrong, 32)(unsigned* y, const unsigned* x) {
    unsigned value = x[threadIdx.x];
    if (threadIdx.x < 16) value = __shfl_xor_sync(ALL_LANES, value, 1);
    y[threadIdx.x] = value;
}

KERNEL(diverge_and_wait_wrong, 64)(unsigned* y, const unsigned* x) {
    unsigned value = x[threadIdx.x];
    if (threadIdx.x < 16) value = __shfl_xor_sync(ALL_LANES, value, 1);
    __syncthreads();
    y[threadIdx.x] = value;
}

KERNEL(outside_of_mask_wrong, 32)(unsigned* y, const unsigned* x) {
    unsigned value = x[threadIdx.x];
    if (threadIdx.x < 16) value = __shfl_sync(0x0000ffffu, value, 20);
    y[threadIdx.x] = value;
}

KERNEL(not_in_mask_wrong, 32)(unsigned* y, const unsigned* x) {
    y[threadIdx.x] = __shfl_sync(0x0000ffffu, x[threadIdx.x], 0);
}

KERNEL(two_operations_wrong, 32)(unsigned* y, const unsigned* x) {
    unsigned value = x[threadIdx.x];
    if (threadIdx.x < 16) {
        value = __shfl_sync(ALL_LANES, value, 0);
    } else {
        value = __ballot_sync(ALL_LANES, int(value));
    }
    y[threadIdx.x] = value;
}

KERNEL(two_places_wrong, 32)(unsigned* y, const unsigned* x) {
    unsigned value = x[threadIdx.x];
    if (threadIdx.x < 16) {
        value = __shfl_sync(ALL_LANES, value, 0);
    } else {
        value = __shfl_sync(ALL_LANES, value, 1);
    }
    y[threadIdx.x] = value;
}

// In a block of less than a warp.
KERNEL(no_such_lanes_wrong, 32)(unsigned* y, const unsigned* x) {
    y[threadIdx.x] = __shfl_sync(ALL_LANES, x[threadIdx.x], 0);
}

// All threads of all blocks, once each, with three dimensions of both.
KERNEL(who, 1024)(unsigned* y) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(&y[block * blockDim.x * blockDim.y * blockDim.z + thread], block * 10000 + thread);
}

KERNEL(add_up, 1024)(unsigned* y, float* z, int n) {
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) {
        atomicAdd(&y[0], unsigned(i));
        atomicMax(&y[1], unsigned(i));
        atomicCAS(&y[2], 0u, 17u);
        atomicAdd(z, 0.5f);
    }
}

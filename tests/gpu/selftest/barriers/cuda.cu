// Barriers, there and missing. Each kernel with `_wrong` in its name lacks what its twin has.

#include "device.cuh"

// y[i] = x[threads - 1 - i]
KERNEL(reverse, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    room[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}

KERNEL(reverse_wrong, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    room[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}

// Three times: the neighbour's value, times two.
KERNEL(pass_on, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    float value = x[threadIdx.x];
    for (int round = 0; round < 3; round++) {
        room[threadIdx.x] = value;
        __syncthreads();
        value = 2.0f * room[(threadIdx.x + 1) % blockDim.x];
        __syncthreads();
    }
    y[threadIdx.x] = value;
}

// A fast warp overwrites what a slow one has not read yet.
KERNEL(pass_on_wrong, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    float value = x[threadIdx.x];
    for (int round = 0; round < 3; round++) {
        room[threadIdx.x] = value;
        __syncthreads();
        value = 2.0f * room[(threadIdx.x + 1) % blockDim.x];
    }
    y[threadIdx.x] = value;
}

// Within a warp: the neighbour's value.
KERNEL(swap_in_warp, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    room[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = room[threadIdx.x ^ 1];
}

KERNEL(swap_in_warp_wrong, 256)(float* y, const float* x) {
    DYNAMIC_SHARED(float, room);
    room[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = room[threadIdx.x ^ 1];
}

// The sum of a block, by all its threads.
KERNEL(sum_block, 256)(float* y, const float* x) {
    __shared__ float room[32];
    float sum = block_sum(x[threadIdx.x], room);
    y[threadIdx.x] = sum;
}

KERNEL(exit_early_wrong, 256)(float* y, const float* x) {
    if (threadIdx.x >= 100) return;
    DYNAMIC_SHARED(float, room);
    room[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = room[0];
}

KERNEL(two_barriers_wrong, 256)(float* y, const float* x) {
    if (threadIdx.x < 64) {
        y[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
    } else {
        __syncthreads();
    }
}

KERNEL(half_a_barrier_wrong, 256)(float* y, const float* x) {
    y[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 16) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

KERNEL(count_positive, 256)(int* y, const float* x) {
    int count = __syncthreads_count(x[threadIdx.x] > 0.0f);
    int any = __syncthreads_or(x[threadIdx.x] > 1e9f), all = __syncthreads_and(x[threadIdx.x] < 1e9f);
    y[threadIdx.x] = count * 4 + any * 2 + all;
}

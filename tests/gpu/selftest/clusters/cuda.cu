// Blocks of a cluster that read each other's shared memory; and twins that do so too early, or too late.

#include "clusters.cuh"

// y[block][i] = the sum of x[·][i] over all blocks, for two neighbours of a thread. The last warp has ended before.
__device__ __forceinline__ void add_blocks(float* y, const float* x, bool meets_first, bool meets_last) {
    DYNAMIC_SHARED(float, room);
    __shared__ float scale;
    int at = 2 * threadIdx.x, columns = 2 * (blockDim.x - 32);
    if (threadIdx.x == 0) scale = float(blockIdx.z + 1);
    __syncthreads();
    if (at >= columns) return;
    for (int i = 0; i < 2; i++) room[at + i] = scale * x[blockIdx.z * columns + at + i];
    if (meets_first) cluster_sync();
    float2 sum = make_float2(0.0f, 0.0f);
    for (int block = 0; block < int(gridDim.z); block++) {
        float2 other = load_2_of_block(room + at, block);
        sum.x += other.x, sum.y += other.y;
    }
    store_2(y + blockIdx.z * columns + at, sum.x / scale, sum.y / scale);
    if (meets_last) cluster_sync();
}

KERNEL(add_blocks, 256)(float* y, const float* x) { add_blocks(y, x, true, true); }

KERNEL(add_blocks_early_wrong, 256)(float* y, const float* x) { add_blocks(y, x, false, true); }

KERNEL(add_blocks_late_wrong, 256)(float* y, const float* x) { add_blocks(y, x, true, false); }

KERNEL(ask_beyond_wrong, 256)(float* y) {
    DYNAMIC_SHARED(float, room);
    cluster_sync();
    store_2(y, load_2_of_block(room, gridDim.z).x, 0.0f);
    cluster_sync();
}

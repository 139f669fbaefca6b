// Known accesses to memory, to be counted.

#include "device.cuh"

// Every thread reads all of x twice, and writes its own y, which it then reads.
KERNEL(read_twice, 32)(float* y, const float* x, int n) {
    float sum = 0.0f;
    for (int i = 0; i < 2 * n; i++) sum += x[i % n];
    y[threadIdx.x] = sum;
    __syncwarp();
    if (y[threadIdx.x ^ 1] != sum) y[threadIdx.x] = 0.0f;
}

// Eight bytes that lie in two sectors.
KERNEL(read_across, 32)(float* y, const float* x) {
    if (threadIdx.x == 0) y[0] = x[7] + x[8];
}

KERNEL(count_up, 32)(unsigned* y) { atomicAdd(y, 1u); }

// From device to shared memory, without an address in a register; all but shared memory is x.
KERNEL(copy_only, 32)(const float* x) {
    DYNAMIC_SHARED(float4, room);
    copy_async_16(&room[threadIdx.x], reinterpret_cast<const float4*>(x) + threadIdx.x, threadIdx.x < 16);
    copy_async_commit();
    copy_async_wait<0>();
}

KERNEL(multiply_only, 32)() {
    float d[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    mma_m16n8k16_bf16(d, a, b);
}

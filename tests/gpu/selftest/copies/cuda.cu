// Asynchronous copies to shared memory, waited for and not.

#include "device.cuh"

// y = 2 · x, a block of threads · 4 floats at a time, the next one on its way meanwhile.
template <int PENDING, bool BARRIER>
__device__ void twice(float* y, const float* x, int steps, int valid) {
    DYNAMIC_SHARED(float4, room);
    const float4* from = reinterpret_cast<const float4*>(x);
    for (int step = 0; step <= steps; step++) {
        int at = step * int(blockDim.x) + int(threadIdx.x);
        if (step < steps) copy_async_16(&room[step % 2 * blockDim.x + threadIdx.x], from + at, at < valid);
        copy_async_commit();
        if (step == 0) continue;
        copy_async_wait<PENDING>();
        if (BARRIER) __syncthreads();
        // A neighbour's, so that the barrier counts.
        float4 value = room[(step - 1) % 2 * blockDim.x + (threadIdx.x + 1) % blockDim.x];
        if (BARRIER) __syncthreads();
        reinterpret_cast<float4*>(y)[(step - 1) * blockDim.x + (threadIdx.x + 1) % blockDim.x] =
            make_float4(2 * value.x, 2 * value.y, 2 * value.z, 2 * value.w);
    }
    copy_async_wait<0>();
}

KERNEL(twice_staged, 128)(float* y, const float* x, int steps, int valid) { twice<1, true>(y, x, steps, valid); }

KERNEL(twice_weak_wait_wrong, 128)(float* y, const float* x, int steps, int valid) {
    twice<2, true>(y, x, steps, valid);
}

KERNEL(twice_no_barrier_wrong, 128)(float* y, const float* x, int steps, int valid) {
    twice<1, false>(y, x, steps, valid);
}

KERNEL(never_waited_wrong, 128)(float* y, const float* x, int, int) {
    DYNAMIC_SHARED(float4, room);
    copy_async_16(&room[threadIdx.x], reinterpret_cast<const float4*>(x) + threadIdx.x, true);
    copy_async_commit();
    y[threadIdx.x] = 0.0f;
}

KERNEL(misaligned_wrong, 128)(float* y, const float* x, int, int) {
    DYNAMIC_SHARED(float, room);
    copy_async_16(room + 4 * threadIdx.x, x + 1, true);
    copy_async_commit();
    copy_async_wait<0>();
    y[threadIdx.x] = room[threadIdx.x];
}

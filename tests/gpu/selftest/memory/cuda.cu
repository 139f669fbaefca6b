// Memory: within bounds and not, and what other processes write.

#include "device.cuh"

KERNEL(fill, 1024)(float* y, float value, int n) {
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) y[i] = value;
}

// The same of a kernel that may begin before the one before it has ended.
KERNEL(fill_after, 1024)(float* y, float value, int n) {
    overlap_begin();
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) y[i] = value;
}

KERNEL(add_one, 1024)(float* y, int n) {
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) y[i] += 1.0f;
}

// y += x, and a value of each kind that a kernel may take.
struct Mixed {
    long long a;
    int b;
    float c;
    unsigned char d[12];
};
KERNEL(mixed, 32)(double* y, Mixed values, int i, unsigned u, float f, long long l) {
    if (threadIdx.x == 0) *y = double(values.a) + values.b + values.c + values.d[11] + i + u + f + double(l);
}

KERNEL(read_at, 32)(float* y, const float* x, int at) {
    if (threadIdx.x == 0) *y = x[at];
}

KERNEL(write_shared_at, 32)(float* y, int at) {
    DYNAMIC_SHARED(float, room);
    if (threadIdx.x == 0) room[at] = 1.0f;
    y[threadIdx.x] = room[0];
}

// An index that the array does not have.
KERNEL(read_static_at, 32)(float* y, int at) {
    __shared__ float room[32];
    room[threadIdx.x] = float(threadIdx.x);
    __syncwarp();
    y[threadIdx.x] = room[at];
}

KERNEL(read_unaligned, 32)(float* y, const float* x, int at) {
    float4 value = *reinterpret_cast<const float4*>(x + at);
    y[threadIdx.x] = value.x + value.y + value.z + value.w;
}

KERNEL(read_never_written, 32)(float* y) {
    DYNAMIC_SHARED(float, room);
    y[threadIdx.x] = room[threadIdx.x];
}

KERNEL(read_static_never_written, 32)(float* y) {
    __shared__ float room[32];
    float value = room[threadIdx.x];
    __syncwarp();
    room[threadIdx.x] = 1.0f;
    __syncwarp();
    y[blockIdx.x * 32 + threadIdx.x] = value + room[threadIdx.x ^ 1];
}

// Static shared memory of more than half of what a block has without asking.
KERNEL(much_static, 32)(float* y) {
    __shared__ float room[8000];
    room[threadIdx.x] = float(threadIdx.x);
    __syncwarp();
    y[threadIdx.x] = room[31 - threadIdx.x];
}

__device__ int deeper(int depth, int* trail) {
    int room[512];
    room[depth % 512] = depth + *trail;
    return depth == 0 ? room[0] : deeper(depth - 1, room + depth % 512) + room[depth % 512];
}

KERNEL(recurse, 32)(int* y, int depth) {
    int trail = 0;
    y[threadIdx.x] = deeper(depth, &trail);
}

// Waits for a peer's word, then tells it the next one; `rounds` times.
KERNEL(ping, 32)(uint32_t* mine, uint32_t* theirs, int first, int rounds) {
    if (threadIdx.x > 1) return;
    // Two lanes, of which one waits for the other.
    __shared__ uint32_t done;
    if (threadIdx.x == 0) {
        done = 0;
        for (int round = 0; round < rounds; round++) {
            uint32_t word = uint32_t(round) * 2 + (first ? 1 : 2);
            if (first) store_release_system(theirs, word);
            while (load_acquire_system(mine) < uint32_t(round) * 2 + (first ? 2 : 1)) spin_pause();
            if (!first) store_release_system(theirs, word);
        }
        store_release_system(&done, 1);
    } else {
        while (load_acquire_system(&done) != 1) spin_pause();
    }
}

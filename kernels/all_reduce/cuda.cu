// All-reduce through memory that every GPU of the group has mapped (peers.cuh), for messages so small that NCCL's own
// latency would be most of their time.
//
//     direct (one shot):   stage my slice │ meet │ add everybody's slices, in the order of the ranks
//     halved (two shots):  stage my slice │ meet │ add my part of the slice │ meet │ collect everybody's parts
//
// Bytes that cross NVLink per rank, n of them in the message, w ranks: direct (w − 1) n, halved 2 (w − 1) n / w.

#include "norm.cuh"
#include "peers.cuh"

// `x`, of which this block has `count` elements from `first` on, to its staging area; beyond its end there are zeros.
template <class T>
__device__ void stage(T* area, const T* x, int first, int count, int total) {
    for (int i = threadIdx.x * 8; i < count; i += blockDim.x * 8) {
        if (first + i + 8 <= total) {
            copy_8(area + i, x + first + i);
        } else {
            for (int k = 0; k < 8; k++) area[i + k] = first + i + k < total ? x[first + i + k] : from_float<T>(0.0f);
        }
    }
}

template <class T>
__device__ void store_up_to(T* x, int at, int total, const float values[8]) {
    if (at + 8 <= total) {
        store_8(x + at, values);
    } else {
        for (int k = 0; at + k < total; k++) x[at + k] = from_float<T>(values[k]);
    }
}

template <class T>
__device__ void reduce_directly(T* x, const Peers& peers, int slice, int total) {
    uint32_t phase = *phase_of(peers) + 1;
    int first = blockIdx.x * slice, count = min(slice, (total - first + 7) / 8 * 8);
    stage(area_of<T>(peers, peers.rank, phase), x, first, count, total);
    meet(peers, phase);
    for (int i = threadIdx.x * 8; i < count; i += blockDim.x * 8) {
        float sum[8];
        sum_8<T>(peers, phase, i, sum);
        store_up_to(x, first + i, total, sum);
    }
    if (threadIdx.x == 0) *phase_of(peers) = phase;
}

// How a block's staged elements are shared out: each rank sums one part of them, a multiple of 8.
__device__ __forceinline__ int part_of(const Peers& peers, int count) {
    return (count + 8 * peers.ranks - 1) / (8 * peers.ranks) * 8;
}

// Sums this rank's part of `count` elements that all have staged, for the others to collect in the next phase.
template <class T>
__device__ void sum_own_part(const Peers& peers, uint32_t phase, int count) {
    int part = part_of(peers, count), own = peers.rank * part, end = min(own + part, count);
    T* sums = area_of<T>(peers, peers.rank, phase + 1);
    for (int i = own + threadIdx.x * 8; i < end; i += blockDim.x * 8) {
        float sum[8];
        sum_8<T>(peers, phase, i, sum);
        store_8(sums + i, sum);
    }
}

template <class T>
__device__ void reduce_by_parts(T* x, const Peers& peers, int slice, int total) {
    uint32_t phase = *phase_of(peers) + 1;
    int first = blockIdx.x * slice, count = min(slice, (total - first + 7) / 8 * 8);
    stage(area_of<T>(peers, peers.rank, phase), x, first, count, total);
    meet(peers, phase);
    sum_own_part<T>(peers, phase, count);
    meet(peers, phase + 1);
    int part = part_of(peers, count);
    for (int i = threadIdx.x * 8; i < count; i += blockDim.x * 8) {
        float sum[8];
        load_8(area_of<T>(peers, i / part, phase + 1) + i, sum);
        store_up_to(x, first + i, total, sum);
    }
    if (threadIdx.x == 0) *phase_of(peers) = phase + 1;
}

// x [total] becomes the sum over the ranks; `slice` elements, a multiple of 8, for each block.
KERNEL(direct, 512)(act* x, Peers peers, int slice, int total) { reduce_directly(x, peers, slice, total); }

KERNEL(direct_residual, 512)(float* x, Peers peers, int slice, int total) { reduce_directly(x, peers, slice, total); }

KERNEL(by_parts, 512)(act* x, Peers peers, int slice, int total) { reduce_by_parts(x, peers, slice, total); }

KERNEL(by_parts_residual, 512)(float* x, Peers peers, int slice, int total) {
    reduce_by_parts(x, peers, slice, total);
}

// ---- with the norm behind it ----

// Rows of a block: b, b + blocks, …, which fit into its area side by side.
struct Normed {
    act* y;
    float* residual;
    const act* x;
    const float* weight;
    int rows, columns;
    float scale, eps;

    // Elements that the block stages.
    __device__ __forceinline__ int staged() const {
        int own = (rows - int(blockIdx.x) + int(gridDim.x) - 1) / int(gridDim.x);
        return own * columns;
    }

    __device__ void stage_all(act* area) const {
        for (int row = blockIdx.x; row < rows; row += gridDim.x, area += columns) {
            stage(area, x + int64_t(row) * columns, 0, columns, columns);
        }
    }

    // `sum(at, values)` gives the eight sums from `at` on, of those that were staged.
    template <class Sum>
    __device__ __forceinline__ void finish(Sum sum) const {
        __shared__ float room[32];
        int at = 0;
        for (int row = blockIdx.x; row < rows; row += gridDim.x, at += columns) {
            float* stream = residual + int64_t(row) * columns;
            float squares = 0.0f;
            for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8) {
                float values[8];
                sum(at + i, values);
                squares = add_scaled_8(stream + i, scale, values, squares);
            }
            float inverse = inverse_rms(block_sum(squares, room), columns, eps);
            for (int i = threadIdx.x * 8; i < columns; i += blockDim.x * 8) {
                float values[8];
                normed_8(stream + i, weight + i, inverse, values);
                store_8(y + int64_t(row) * columns + i, values);
            }
            __syncthreads();
        }
    }
};

// residual += scale · (the sum of x over the ranks), then y is the norm of the sum: [rows, columns] each, columns a
// multiple of 8.
KERNEL(direct_norm, 512)
(act* y, float* residual, const act* x, const float* weight, Peers peers, int rows, int columns, float scale, float eps) {
    Normed normed{y, residual, x, weight, rows, columns, scale, eps};
    uint32_t phase = *phase_of(peers) + 1;
    normed.stage_all(area_of<act>(peers, peers.rank, phase));
    meet(peers, phase);
    normed.finish([&](int at, float sum[8]) { sum_8<act>(peers, phase, at, sum); });
    if (threadIdx.x == 0) *phase_of(peers) = phase;
}

// The same; sums are rounded to activations, as without the norm.
KERNEL(by_parts_norm, 512)
(act* y, float* residual, const act* x, const float* weight, Peers peers, int rows, int columns, float scale, float eps) {
    Normed normed{y, residual, x, weight, rows, columns, scale, eps};
    uint32_t phase = *phase_of(peers) + 1;
    normed.stage_all(area_of<act>(peers, peers.rank, phase));
    meet(peers, phase);
    sum_own_part<act>(peers, phase, normed.staged());
    meet(peers, phase + 1);
    int part = part_of(peers, normed.staged());
    normed.finish([&](int at, float sum[8]) { load_8(area_of<act>(peers, at / part, phase + 1) + at, sum); });
    if (threadIdx.x == 0) *phase_of(peers) = phase + 1;
}

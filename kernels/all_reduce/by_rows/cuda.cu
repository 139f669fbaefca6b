// An all-reduce with the residual addition and the norm behind it, in which each rank keeps the residual stream of its own
// rows only: of w neighbouring rows, a group, each rank has one.
//
//     stage my parts of the group's rows │ meet │ add everybody's parts of my own row, and the residual; norm │ meet │
//     collect the others' rows
//
// As many bytes cross NVLink as where every rank adds its part of the sums (by_parts in all_reduce/cuda.cu), but of the
// residual stream, in f32 the larger part of what else is read and written, each rank moves 1/w: of 128 rows of 8192 in
// bf16 on eight GPUs 1 MB instead of 8.4. And the norm is computed once. Rows are few, and so that more than one block has
// to do with each, the blocks of a cluster share its columns.
//
// architectures: sm_90a sm_100a sm_120

#include "clusters.cuh"
#include "norm.cuh"
#include "peers.cuh"

// Blocks: groups of rows in x, pieces of their columns in z.
struct Group {
    int first_row, rows;  // in the last group fewer than ranks
    int first, count;     // columns: multiples of 8
    int columns;          // of a whole row

    __device__ __forceinline__ Group(int ranks, int all_rows, int all_columns, int piece) {
        first_row = blockIdx.x * ranks, rows = min(ranks, all_rows - first_row);
        first = blockIdx.z * piece, count = min(piece, all_columns - first);
        columns = all_columns;
    }

    __device__ __forceinline__ int64_t at(int row, int column) const {
        return int64_t(first_row + row) * columns + first + column;
    }

    // Calls `visit(row, column)` for eight neighbours at a time, of all rows but `left_out`.
    template <class Visit>
    __device__ __forceinline__ void for_all_but(int left_out, Visit visit) const {
        for (int i = threadIdx.x * 8; i < rows * count; i += blockDim.x * 8) {
            int row = i / count;
            if (row != left_out) visit(row, i - row * count);
        }
    }
};

// The sum over the blocks of the cluster, on all threads; none may end before all have it.
__device__ __forceinline__ float cluster_sum(float x) {
    __shared__ float room[32];
    DYNAMIC_SHARED(float, own);
    x = block_sum(x, room);
    if (threadIdx.x == 0) own[0] = x, own[1] = 0.0f;
    cluster_sync();
    float sum = 0.0f;
    for (int block = 0; block < int(gridDim.z); block++) sum += load_2_of_block(own, block).x;
    return sum;
}

// residual += scale · (the sum of x over the ranks) in this rank's rows; then y is the norm of the sum, in all rows:
// [rows, columns] each, columns a multiple of 8, `piece` of them for each block.
KERNEL(by_rows_norm, 512)
(act* y, float* residual, const act* x, const float* weight, Peers peers, int rows, int columns, int piece, float scale,
 float eps) {
    constexpr int NONE = -1;
    Group group(peers.ranks, rows, columns, piece);
    uint32_t phase = *phase_of(peers) + 1;
    bool has_own = peers.rank < group.rows;
    act* staged = area_of<act>(peers, peers.rank, phase);
    group.for_all_but(NONE, [&](int row, int at) { copy_8(staged + row * piece + at, x + group.at(row, at)); });
    meet(peers, phase);

    float* stream = residual + group.at(peers.rank, 0);
    float squares = 0.0f;
    for (int i = threadIdx.x * 8; has_own && i < group.count; i += blockDim.x * 8) {
        float sum[8];
        sum_8<act>(peers, phase, peers.rank * piece + i, sum);
        squares = add_scaled_8(stream + i, scale, sum, squares);
    }
    float inverse = inverse_rms(cluster_sum(squares), columns, eps);
    act* normed = area_of<act>(peers, peers.rank, phase + 1);
    for (int i = threadIdx.x * 8; has_own && i < group.count; i += blockDim.x * 8) {
        float values[8];
        normed_8(stream + i, weight + group.first + i, inverse, values);
        store_8(normed + i, values);
        store_8(y + group.at(peers.rank, i), values);
    }
    meet(peers, phase + 1);

    group.for_all_but(peers.rank, [&](int row, int at) {
        copy_8(y + group.at(row, at), area_of<act>(peers, row, phase + 1) + at);
    });
    if (threadIdx.x == 0) *phase_of(peers) = phase + 1;
    // Others of the cluster may still read this block's squares.
    cluster_sync();
}

// x [rows, columns], of which each rank has its own rows, becomes whole; blocks as above.
KERNEL(collect_rows, 512)(float* x, Peers peers, int rows, int columns, int piece) {
    Group group(peers.ranks, rows, columns, piece);
    uint32_t phase = *phase_of(peers) + 1;
    float* own = area_of<float>(peers, peers.rank, phase);
    for (int i = threadIdx.x * 8; peers.rank < group.rows && i < group.count; i += blockDim.x * 8) {
        copy_8(own + i, x + group.at(peers.rank, i));
    }
    meet(peers, phase);
    group.for_all_but(peers.rank, [&](int row, int at) {
        copy_8(x + group.at(row, at), area_of<float>(peers, row, phase) + at);
    });
    if (threadIdx.x == 0) *phase_of(peers) = phase;
}

// Attention of few queries per sequence: so few that one product of 16 rows holds all that read a KV head.
//
// What takes time is reading the cache: a KV head's keys and values once for all its query heads, 2 × head_dim × 2 bytes
// per position in bf16. 128 sequences of 4,096 positions with 8 KV heads of 128: 2.1 GB, 0.64 ms at 3.35 TB/s. A warp's
// step of 16 positions takes about 250 instructions, where memory leaves time for 2,000: rows may well be empty.
//
// Contexts are dealt out to blocks (attention_shares.cuh). In a block, each warp has positions of its own (16 of a unit), with its own softmax and its own buffers, and meets the
// others at the end of a context only.
//
// variants: FORMAT f16 bf16 wint8 f8_e4m3

// How many blocks registers leave room for, as in attention/cuda/kernels.rs.
#define BLOCKS_AT_LEAST 4
#include "attention_fragments.cuh"
#include "attention_shares.cuh"

#define ROWS 16
#define WARPS 4
#define THREADS 128
#define WARP_KEYS 16
#define STAGES 2

// ---- one warp's positions ----

// Sums so far of a lane's two rows.
template <int dim>
struct Sums {
    float best[2];
    float total[2];  // of the lane's columns
    float values[dim / 8][4];
};

// A warp's buffers and where its next keys lie.
template <int dim>
struct Pipe {
    static constexpr int row_bytes = dim * sizeof(Element);
    static constexpr int pieces = row_bytes / 16;
    static constexpr int tile_bytes = WARP_KEYS * stride_of(row_bytes);
    static constexpr int bytes = STAGES * 2 * tile_bytes;

    uint8_t* room;

    __device__ __forceinline__ uint8_t* keys(int stage) const { return room + stage % STAGES * 2 * tile_bytes; }
    __device__ __forceinline__ uint8_t* values(int stage) const { return keys(stage) + tile_bytes; }

    // Copies 16 keys and values, whose rows of the cache the lanes hold: lanes 0 to 15, and again the others. A row below
    // zero is none; zeros take its place, for what is multiplied by a weight of zero must be a number.
    __device__ __forceinline__ void fetch(const Problem& problem, int stage, int row) const {
        int lane = threadIdx.x % 32;
        for (int index = lane; index < WARP_KEYS * pieces; index += 32) {
            int key = index / pieces, piece = index % pieces;
            int from_row = __shfl_sync(ALL_LANES, row, key);
            if (piece * PIECE >= problem.head_dim) continue;
            int64_t from = int64_t(max(from_row, 0)) * problem.head_dim + piece * PIECE;
            int to = piece_at<row_bytes>(key, piece);
            copy_async_16(keys(stage) + to, problem.keys + from, from_row >= 0);
            copy_async_16(values(stage) + to, problem.values + from, from_row >= 0);
        }
    }

    // Columns beyond the head's are zeros, for good.
    __device__ __forceinline__ void clear(const Problem& problem) const {
        if (problem.head_dim == dim) return;
        for (int at = threadIdx.x % 32 * 16; at < bytes; at += 32 * 16) {
            *reinterpret_cast<uint4*>(room + at) = make_uint4(0, 0, 0, 0);
        }
        __syncwarp();
    }
};

// What is seen by a lane's two rows: keys from `begin` to `end`.
struct Seen {
    int begin[2];
    int end[2];
};

// Adds 16 keys from `first_key` on. `scales`: of an int8 cache, those of the keys on lanes 0 to 15, of the values on the
// others.
template <int dim>
__device__ __forceinline__ void add_keys(const Problem& problem, const Pipe<dim>& pipe, int stage,
                                         const uint32_t (&query)[dim / 16][4], const Seen& seen, bool all_seen,
                                         int first_key, float scales, Sums<dim>& sums) {
    constexpr int row_bytes = Pipe<dim>::row_bytes;
    int column = threadIdx.x % 4 * 2;
    float scores[2][4] = {};
#pragma unroll
    for (int span = 0; span < row_bytes / 32; span++) {
        with_keys<row_bytes>(pipe.keys(stage), 0, span, [&](int step, const uint32_t* low, const uint32_t* high) {
            Product::add(scores[0], query[step], low);
            Product::add(scores[1], query[step], high);
        });
    }
    float value_scales[2][2];
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int key = 8 * n + column + i;
            float scale = problem.scale;
            if (FORMAT::scaled) {
                scale *= __shfl_sync(ALL_LANES, scales, key);
                value_scales[n][i] = __shfl_sync(ALL_LANES, scales, WARP_KEYS + key);
            }
            scores[n][i] *= scale;
            scores[n][2 + i] *= scale;
            if (!all_seen) {
                if (first_key + key < seen.begin[0] || first_key + key >= seen.end[0]) scores[n][i] = -INFINITE;
                if (first_key + key < seen.begin[1] || first_key + key >= seen.end[1]) scores[n][2 + i] = -INFINITE;
            }
        }
    }
    float kept[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float* low = scores[0] + 2 * half;
        float* high = scores[1] + 2 * half;
        float best = fmaxf(sums.best[half], row_max(fmaxf(fmaxf(low[0], low[1]), fmaxf(high[0], high[1]))));
        // Where nothing was seen yet, infinities must not meet.
        float base = best == -INFINITE ? 0.0f : best;
        kept[half] = fast_exp2(sums.best[half] - base);
        sums.best[half] = best;
        for (int i = 0; i < 2; i++) {
            low[i] = fast_exp2(low[i] - base);
            high[i] = fast_exp2(high[i] - base);
        }
        sums.total[half] = sums.total[half] * kept[half] + ((low[0] + low[1]) + (high[0] + high[1]));
    }
#pragma unroll
    for (int n = 0; n < dim / 8; n++) {
        for (int i = 0; i < 4; i++) sums.values[n][i] *= kept[i / 2];
    }
    if (FORMAT::scaled) {
#pragma unroll
        for (int i = 0; i < 8; i++) scores[i / 4][i % 4] *= value_scales[i / 4][i % 2];
    }
    // Scores lie on the lanes as the left factor of the next product wants them.
    uint32_t weights[4] = {Product::pack(scores[0][0], scores[0][1]), Product::pack(scores[0][2], scores[0][3]),
                           Product::pack(scores[1][0], scores[1][1]), Product::pack(scores[1][2], scores[1][3])};
#pragma unroll
    for (int span = 0; span < row_bytes / 32; span++) {
        with_values<row_bytes>(pipe.values(stage), 0, span,
                               [&](int n, const uint32_t* value) { Product::add(sums.values[n], weights, value); });
    }
}

// A lane's fragments of the queries.
template <int dim>
__device__ __forceinline__ void load_queries(const Problem& problem, const Row (&rows)[2], uint32_t (&query)[dim / 16][4]) {
#pragma unroll
    for (int step = 0; step < dim / 16; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Row& row = rows[i % 2];
            int element = 16 * step + query_element() + i / 2 * OTHER_PAIR;
            bool there = row.valid && element < problem.head_dim;
            query[step][i] = there ? query_pair(query_of(problem, row) + element) : 0;
        }
    }
}

// The warp's part of the tile's keys.
template <int dim>
__device__ __forceinline__ void add_units(const Problem& problem, const Tile& tile, const Pipe<dim>& pipe, Sums<dim>& sums) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Row rows[2] = {row_of(tile, lane / 4), row_of(tile, lane / 4 + 8)};
    uint32_t query[dim / 16][4];
    load_queries<dim>(problem, rows, query);
    Seen seen;
    for (int half = 0; half < 2; half++) {
        sums.best[half] = -INFINITE;
        sums.total[half] = 0.0f;
        seen.begin[half] = first_seen(problem, rows[half].position);
        seen.end[half] = rows[half].position + 1;
    }
#pragma unroll
    for (int n = 0; n < dim / 8; n++) {
        for (int i = 0; i < 4; i++) sums.values[n][i] = 0.0f;
    }
    // What all rows see.
    int all_begin = first_seen(problem, tile.first_position + tile.queries - 1), all_end = tile.first_position + 1;

    int first_key = tile.begin + warp * WARP_KEYS, units = (tile.end - tile.begin + UNIT - 1) / UNIT;
    auto look_up = [&](int unit) {
        int key = first_key + unit * UNIT + lane % WARP_KEYS;
        return key < tile.end ? key_row(problem, tile, key) : -1;
    };
    auto look_up_scale = [&](int row) {
        if (!FORMAT::scaled || row < 0) return 0.0f;
        return (lane < WARP_KEYS ? problem.key_scales : problem.value_scales)[row];
    };
    // Ahead of a unit's sums its keys and values are on their way, and of these their rows.
    pipe.clear(problem);
    int row = look_up(0);
    pipe.fetch(problem, 0, row);
    copy_async_commit();
    float scales = look_up_scale(row), next_scales = 0.0f;
    row = units > 1 ? look_up(1) : -1;
    for (int unit = 0; unit < units; unit++) {
        if (unit + 1 < units) {
            pipe.fetch(problem, unit + 1, row);
            next_scales = look_up_scale(row);
        }
        copy_async_commit();
        if (unit + 2 < units) row = look_up(unit + 2);
        copy_async_wait<1>();
        __syncwarp();
        int key = first_key + unit * UNIT;
        bool all_seen = key >= all_begin && key + WARP_KEYS <= all_end;
        add_keys<dim>(problem, pipe, unit, query, seen, all_seen, key, scales, sums);
        scales = next_scales;
        __syncwarp();
    }
}

// ---- the warps' results together ----

// Where a result lies in a warp's room.
template <int dim>
__device__ __forceinline__ int result_at(int row, int column) {
    static_assert(ROWS * (dim + 8) * sizeof(float) <= Pipe<dim>::bytes, "results fit into the buffers of keys and values");
    return row * (dim + 8) + column;
}

// Merges the warps' sums, whose rooms take them, and writes the answer of a whole context, or partial result `partial`.
template <int dim>
__device__ __forceinline__ void finish(const Problem& problem, const Tile& tile, const Sums<dim>& sums, uint8_t* shared,
                                       bool is_whole, int64_t partial) {
    __shared__ float2 warp_sums[WARPS][ROWS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* room = reinterpret_cast<float*>(shared + warp * Pipe<dim>::bytes);
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half;
        float total = row_sum(sums.total[half]);
        if (lane % 4 == 0) warp_sums[warp][row] = make_float2(sums.best[half], total);
#pragma unroll
        for (int n = 0; n < dim / 8; n++) {
            for (int i = 0; i < 2; i++) room[result_at<dim>(row, column_of(n, i))] = sums.values[n][2 * half + i];
        }
    }
    __syncthreads();
    for (int index = threadIdx.x; index < ROWS * dim / 4; index += THREADS) {
        int at = index / (dim / 4), column = index % (dim / 4) * 4;
        Row row = row_of(tile, at);
        if (!row.valid || column >= problem.value_dim) continue;
        float best = -INFINITE, total = 0.0f;
        for (int other = 0; other < WARPS; other++) best = fmaxf(best, warp_sums[other][at].x);
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int other = 0; other < WARPS; other++) {
            // The first of several queries may see none of a share's keys.
            float weight = best == -INFINITE ? 0.0f : fast_exp2(warp_sums[other][at].x - best);
            const float* from = reinterpret_cast<const float*>(shared + other * Pipe<dim>::bytes);
            float4 values = *reinterpret_cast<const float4*>(from + result_at<dim>(at, column));
            total += weight * warp_sums[other][at].y;
            sum.x += weight * values.x;
            sum.y += weight * values.y;
            sum.z += weight * values.z;
            sum.w += weight * values.w;
        }
        if (is_whole) {
            float share = share_of(problem, row.head, best, total);
            store_4(output_of(problem, row) + column, sum.x * share, sum.y * share, sum.z * share, sum.w * share);
        } else {
            int64_t to = partial * ROWS + at;
            *reinterpret_cast<float4*>(problem.partial_values + to * problem.value_dim + column) = sum;
            if (column == 0) problem.partial_sums[to] = make_float2(best, total);
        }
    }
    __syncthreads();
}

// ---- entries ----

template <int dim>
__device__ __forceinline__ void decode(const Problem& problem) {
    DYNAMIC_SHARED(uint8_t, shared);
    wait_for_last();
    Pipe<dim> pipe{shared + threadIdx.x / 32 * Pipe<dim>::bytes};
    for_share<ROWS, THREADS>(problem, [&](const Tile& tile, bool is_whole, int64_t partial) {
        Sums<dim> sums;
        add_units<dim>(problem, tile, pipe, sums);
        finish<dim>(problem, tile, sums, shared, is_whole, partial);
    });
    let_next_begin();
}

KERNEL(decode_64, THREADS)(Problem problem) { decode<64>(problem); }
KERNEL(decode_merge, THREADS)(Problem problem) {
    overlap_begin();
    merge_shares<ROWS, THREADS>(problem);
}

#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 3
KERNEL(decode_128, THREADS)(Problem problem) { decode<128>(problem); }

#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 2
KERNEL(decode_256, THREADS)(Problem problem) { decode<256>(problem); }

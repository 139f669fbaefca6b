// Attention of many queries per sequence, on tensor cores.
//
// A block takes a tile of rows: some queries times all query heads that share a KV head, so that keys and values are
// fetched once for all of them. What takes time is products: 4 × head_dim operations per row and position seen. 8,192
// queries from the first on, 32 heads of 128: 0.55 · 10¹² operations a layer, 1.8 ms at the 312 · 10¹² per second of an
// A100, 0.9 ms at the 620 or so that this kind of product reaches on an H100.
//
// A warp has 32 rows of a tile, or 16 where heads are wide: with 32, each fragment of keys and values is read once for two
// products, at 128 bytes for each of a multiprocessor's 2,048 multiplications; 16 rows would need all that shared memory
// gives. A step's keys are computed with while its values are on their way, and its values while the next keys are.
// Positions that no row of a tile sees, after its last query or before its window, are not visited.
//
// variants: FORMAT f16 bf16 wint8 f8_e4m3

// How many blocks registers leave room for, as in attention/cuda/kernels.rs.
#define BLOCKS_AT_LEAST 2
#include "attention_fragments.cuh"

#define WARPS 4
#define THREADS 128
// Splits but for a tile's last are multiples of so many keys, thus of a step's; each has so many at least.
#define KEYS_AT_ONCE 64
#define KEYS_LEAST 256

// Heads of `dim` elements at most; a warp has `m_tiles` × 16 rows, and a step takes `keys` positions.
template <int dim_, int m_tiles_, int keys_>
struct Shape {
    static constexpr int dim = dim_;
    static constexpr int m_tiles = m_tiles_;
    static constexpr int keys = keys_;
    static constexpr int warp_rows = 16 * m_tiles;
    static constexpr int rows = WARPS * warp_rows;
    static constexpr int row_bytes = dim * sizeof(Element);
    static constexpr int pieces = row_bytes / 16;
    static constexpr int queries_bytes = rows * stride_of(2 * dim);
    static constexpr int tile_bytes = keys * stride_of(row_bytes);
};

// As in attention/cuda/prefill.rs. (Steps of a cache of bytes want two steps of queries in registers.)
typedef Shape<64, 2, 64> Shape64;
typedef Shape<128, 2, sizeof(Element) == 2 ? 64 : 32> Shape128;
typedef Shape<256, 1, 32> Shape256;

// A block's shared memory.
template <class S>
struct Room {
    uint8_t* queries;  // [rows][dim], as factors
    uint8_t* keys;     // [keys][dim]
    uint8_t* values;   // likewise
    float* scales;     // [2][keys] of an int8 cache: the keys', the values'
    int* positions;    // [rows]
};

// Copies the keys, or the values, of the positions whose rows are given. What is not there becomes zero: it is multiplied
// by a weight of zero, and must be a number.
template <class S>
__device__ __forceinline__ void fetch(const Problem& problem, const Element* from, const int* rows, uint8_t* to) {
    for (int index = threadIdx.x; index < S::keys * S::pieces; index += THREADS) {
        int key = index / S::pieces, piece = index % S::pieces;
        if (piece * PIECE >= problem.head_dim) continue;
        int row = rows[key];
        copy_async_16(to + piece_at<S::row_bytes>(key, piece),
                      from + int64_t(max(row, 0)) * problem.head_dim + piece * PIECE, row >= 0);
    }
}

// Of an int8 cache the scales of both.
template <class S>
__device__ __forceinline__ void fetch_scales(const Problem& problem, const int* rows, float* to) {
    if (!FORMAT::scaled || threadIdx.x >= S::keys) return;
    int row = rows[threadIdx.x];
    copy_async_4(to + threadIdx.x, problem.key_scales + max(row, 0), row >= 0);
    copy_async_4(to + S::keys + threadIdx.x, problem.value_scales + max(row, 0), row >= 0);
}

// A lane's sums so far: of the warp's tile m the rows g and g + 8.
template <class S>
struct Sums {
    float best[S::m_tiles][2];
    float total[S::m_tiles][2];  // of the lane's columns
    float values[S::m_tiles][S::dim / 8][4];
};

template <class S>
struct Scores {
    float of[S::m_tiles][S::keys / 8][4];
};

// As left factors of the products with values.
template <class S>
struct Weights {
    uint32_t of[S::m_tiles][S::keys / 16][4];
};

template <class S>
__device__ __forceinline__ void multiply_keys(const Room<S>& room, Scores<S>& scores) {
    int first_row = threadIdx.x / 32 * S::warp_rows;
    constexpr int steps = S::row_bytes / 32 == S::dim / 16 ? 1 : 2;  // of a span
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int n = 0; n < S::keys / 8; n++) {
            for (int i = 0; i < 4; i++) scores.of[m][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int span = 0; span < S::row_bytes / 32; span++) {
        uint32_t query[steps][S::m_tiles][4];
#pragma unroll
        for (int step = 0; step < steps; step++) {
#pragma unroll
            for (int m = 0; m < S::m_tiles; m++) {
                query_fragment<S::dim>(query[step][m], room.queries, first_row + 16 * m, steps * span + step);
            }
        }
#pragma unroll
        for (int pair = 0; pair < S::keys / 16; pair++) {
            with_keys<S::row_bytes>(room.keys, 16 * pair, span, [&](int step, const uint32_t* low, const uint32_t* high) {
#pragma unroll
                for (int m = 0; m < S::m_tiles; m++) {
                    Product::add(scores.of[m][2 * pair], query[step % steps][m], low);
                    Product::add(scores.of[m][2 * pair + 1], query[step % steps][m], high);
                }
            });
        }
    }
}

// From products to weights: scales, hides what a row doesn't see, and keeps the sums in step.
template <class S>
__device__ __forceinline__ void weigh(const Problem& problem, const Room<S>& room, int first_key, bool all_seen, Scores<S>& scores, Weights<S>& weights, Sums<S>& sums) {
    int column = threadIdx.x % 4 * 2;
    if (FORMAT::scaled) {
#pragma unroll
        for (int n = 0; n < S::keys / 8; n++) {
            float2 scales = *reinterpret_cast<const float2*>(room.scales + 8 * n + column);
#pragma unroll
            for (int m = 0; m < S::m_tiles; m++) {
                for (int i = 0; i < 4; i++) scores.of[m][n][i] *= i % 2 == 0 ? scales.x : scales.y;
            }
        }
    }
    if (!all_seen) {
#pragma unroll
        for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int position = room.positions[threadIdx.x / 32 * S::warp_rows + 16 * m + 8 * half + threadIdx.x % 32 / 4];
                // From the first score's key.
                int begin = first_seen(problem, position) - first_key - column;
                int end = position + 1 - first_key - column;
#pragma unroll
                for (int n = 0; n < S::keys / 8; n++) {
                    for (int i = 0; i < 2; i++) {
                        if (8 * n + i < begin || 8 * n + i >= end) scores.of[m][n][2 * half + i] = -INFINITE;
                    }
                }
            }
        }
    }
    bool moved = false;
    float kept[S::m_tiles][2];
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = -INFINITE;
#pragma unroll
            for (int n = 0; n < S::keys / 8; n++) {
                const float* own = scores.of[m][n] + 2 * half;
                greatest = fmaxf(greatest, fmaxf(own[0], own[1]));
            }
            float best = fmaxf(sums.best[m][half], row_max(greatest) * problem.scale);
            // Where nothing was seen yet, infinities must not meet.
            float base = best == -INFINITE ? 0.0f : best;
            kept[m][half] = fast_exp2(sums.best[m][half] - base);
            moved = moved || kept[m][half] != 1.0f;
            sums.best[m][half] = best;
            float total = 0.0f;
#pragma unroll
            for (int n = 0; n < S::keys / 8; n++) {
                float* own = scores.of[m][n] + 2 * half;
                own[0] = fast_exp2(own[0] * problem.scale - base);
                own[1] = fast_exp2(own[1] * problem.scale - base);
                total += own[0] + own[1];
            }
            sums.total[m][half] = sums.total[m][half] * kept[m][half] + total;
        }
    }
    // Scores lie on the lanes as those products want them.
#pragma unroll
    for (int n = 0; n < S::keys / 8; n++) {
        float2 scales = make_float2(1.0f, 1.0f);
        if (FORMAT::scaled) scales = *reinterpret_cast<const float2*>(room.scales + S::keys + 8 * n + column);
#pragma unroll
        for (int m = 0; m < S::m_tiles; m++) {
            const float* own = scores.of[m][n];
            uint32_t* to = weights.of[m][n / 2] + n % 2 * 2;
            to[0] = Product::pack(own[0] * scales.x, own[1] * scales.y);
            to[1] = Product::pack(own[2] * scales.x, own[3] * scales.y);
        }
    }
    // After some steps the greatest scores stay what they are.
    if (!__any_sync(ALL_LANES, moved)) return;
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int n = 0; n < S::dim / 8; n++) {
            for (int i = 0; i < 4; i++) sums.values[m][n][i] *= kept[m][i / 2];
        }
    }
}

template <class S>
__device__ __forceinline__ void multiply_values(const Room<S>& room, const Weights<S>& weights, Sums<S>& sums) {
#pragma unroll
    for (int pair = 0; pair < S::keys / 16; pair++) {
#pragma unroll
        for (int span = 0; span < S::row_bytes / 32; span++) {
            with_values<S::row_bytes>(room.values, 16 * pair, span, [&](int n, const uint32_t* value) {
#pragma unroll
                for (int m = 0; m < S::m_tiles; m++) Product::add(sums.values[m][n], weights.of[m][pair], value);
            });
        }
    }
}

template <class S>
__device__ __forceinline__ void prefill(const Problem& problem) {
    DYNAMIC_SHARED(uint8_t, shared);
    // The cache's rows of this step's positions and the next's; below zero: none.
    __shared__ int rows[2 * S::keys];
    __shared__ float scales[2 * S::keys];
    __shared__ int positions[S::rows];
    // What is wanted at the end only, and has no room in registers till then.
    __shared__ Tile kept_tile;
    Tile tile;
    if (!find_tile(problem, S::rows, tile)) return;
    if (!take_split(problem, tile, blockIdx.z, KEYS_AT_ONCE, KEYS_LEAST)) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Room<S> room;
    room.queries = shared;
    room.keys = room.queries + S::queries_bytes;
    room.values = room.keys + S::tile_bytes;
    room.scales = scales;
    room.positions = positions;

    auto look_up = [&](int step) {
        int key = tile.begin + step * S::keys + int(threadIdx.x);
        return key < tile.end ? key_row(problem, tile, key) : -1;
    };
    if (problem.head_dim < S::dim) {
        for (int at = threadIdx.x * 16; at < 2 * S::tile_bytes; at += THREADS * 16) {
            *reinterpret_cast<uint4*>(room.keys + at) = make_uint4(0, 0, 0, 0);
        }
    }
    if (threadIdx.x == 0) kept_tile = tile;
    if (threadIdx.x < S::keys) rows[threadIdx.x] = look_up(0);
    for (int at = threadIdx.x; at < S::rows; at += THREADS) {
        positions[at] = min(row_of(tile, at).position, tile.first_position + tile.queries - 1);
    }
    __syncthreads();
    fetch<S>(problem, problem.keys, rows, room.keys);
    fetch_scales<S>(problem, rows, scales);
    copy_async_commit();
    load_queries<S::rows, S::dim, THREADS>(problem, tile, room.queries);

    int first_row = warp * S::warp_rows;
    Sums<S> sums;
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            sums.best[m][half] = -INFINITE;
            sums.total[m][half] = 0.0f;
        }
#pragma unroll
        for (int n = 0; n < S::dim / 8; n++) {
            for (int i = 0; i < 4; i++) sums.values[m][n][i] = 0.0f;
        }
    }

    int steps = (tile.end - tile.begin + S::keys - 1) / S::keys;
    for (int step = 0; step < steps; step++) {
        int first_key = tile.begin + step * S::keys, end_key = first_key + S::keys;
        int first_position = positions[first_row], last_position = positions[first_row + S::warp_rows - 1];
        bool all_seen = first_key >= first_seen(problem, last_position) && end_key <= first_position + 1;
        bool any_seen = first_key <= last_position && end_key > first_seen(problem, first_position);
        int* now = rows + step % 2 * S::keys;
        int* next = rows + (step + 1) % 2 * S::keys;
        // The keys are there, and nobody reads the last values any more.
        copy_async_wait<0>();
        __syncthreads();
        fetch<S>(problem, problem.values, now, room.values);
        copy_async_commit();
        int next_row = threadIdx.x < S::keys && step + 1 < steps ? look_up(step + 1) : -1;
        Weights<S> weights;
        if (any_seen) {
            Scores<S> scores;
            multiply_keys<S>(room, scores);
            weigh<S>(problem, room, first_key, all_seen, scores, weights, sums);
        }
        if (threadIdx.x < S::keys) next[threadIdx.x] = next_row;
        // The values are there, and nobody reads the keys any more.
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps) {
            fetch<S>(problem, problem.keys, next, room.keys);
            fetch_scales<S>(problem, next, scales);
            copy_async_commit();
        }
        if (any_seen) multiply_values<S>(room, weights, sums);
    }

#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int at = first_row + 16 * m + 8 * half + lane / 4;
            Row row = row_of(kept_tile, at);
            float best = sums.best[m][half], total = row_sum(sums.total[m][half]);
            if (!row.valid) continue;
            if (kept_tile.splits == 1) {
                float share = share_of(problem, row.head, best, total);
                store_row(output_of(problem, row), sums.values[m], half, share, problem.value_dim);
            } else {
                int64_t partial = (first_partial(problem) + blockIdx.z) * S::rows + at;
                float* to = problem.partial_values + partial * problem.value_dim;
                store_row(to, sums.values[m], half, 1.0f, problem.value_dim);
                if (lane % 4 == 0) problem.partial_sums[partial] = make_float2(best, total);
            }
        }
    }
}

// Blocks: tiles of queries, tiles of heads, splits.
KERNEL(prefill_64, THREADS)(Problem problem) { prefill<Shape64>(problem); }
KERNEL(prefill_128, THREADS)(Problem problem) { prefill<Shape128>(problem); }
KERNEL(prefill_256, THREADS)(Problem problem) { prefill<Shape256>(problem); }

// Blocks: tiles of queries, tiles of heads.
KERNEL(prefill_merge_64, THREADS)(Problem problem) { merge_tile(problem, Shape64::rows, KEYS_AT_ONCE, KEYS_LEAST); }
KERNEL(prefill_merge_128, THREADS)(Problem problem) { merge_tile(problem, Shape128::rows, KEYS_AT_ONCE, KEYS_LEAST); }
KERNEL(prefill_merge_256, THREADS)(Problem problem) { merge_tile(problem, Shape256::rows, KEYS_AT_ONCE, KEYS_LEAST); }

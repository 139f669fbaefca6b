// Attention over latent rows (multi-head latent attention, absorbed), on tensor cores: all query heads share one KV head,
// whose values are the tails of its keys.
//
// What takes time is reading rows where query heads are few, 1,152 bytes per position of DeepSeek's 576 elements in bf16:
// 128 sequences of 4,096 positions are 0.6 GB, 0.18 ms at 3.35 TB/s. Products take 2,176 operations per head and position:
// with 16 heads a step of 32 positions needs about 1,450 cycles of shared memory where memory leaves time for 2,450, with
// 64 heads 3,100. So the more heads and queries there are, the more of them share the rows of a block: 16, 32 or 64.
//
// A value is too wide for one warp's registers. In a step, a warp scores some keys for some rows; all of a step's weights
// meet in shared memory; then each warp sums some columns of the values for all rows.
//
// variants: FORMAT f16 bf16 wint8 f8_e4m3

// How many blocks registers leave room for, as in attention/cuda/kernels.rs.
#define BLOCKS_AT_LEAST 3
#include "attention_fragments.cuh"
#include "attention_shares.cuh"

// Elements of a key at most, and of a value; values begin by their difference at the latest.
#define KEY_DIM 576
#define VALUE_DIM 512
// Positions of a step.
#define KEYS 32
#define STAGES 2
// Splits but for a tile's last are multiples of so many keys, thus of a step's; each has so many at least.
#define KEYS_AT_ONCE 64
#define KEYS_LEAST 256

// A block of `warps` warps has `m_tiles` × 16 rows.
template <int m_tiles_, int warps_>
struct Shape {
    static constexpr int m_tiles = m_tiles_;
    static constexpr int warps = warps_;
    static constexpr int threads = 32 * warps;
    static constexpr int rows = 16 * m_tiles;
    // Scoring: warps take a tile of rows each, those of one tile some keys each.
    static constexpr int key_groups = warps / m_tiles;
    static constexpr int group_keys = KEYS / key_groups;
    // Summing: each takes some columns.
    static constexpr int columns = VALUE_DIM / warps;

    static constexpr int row_bytes = KEY_DIM * sizeof(Element);
    static constexpr int pieces = row_bytes / 16;
    static constexpr int tile_bytes = KEYS * stride_of(row_bytes);
    static constexpr int queries_bytes = rows * stride_of(2 * KEY_DIM);
    static constexpr int weights_stride = stride_of(2 * KEYS);
};

// As in attention/cuda/latent.rs.
typedef Shape<1, 4> Shape16;
typedef Shape<2, 8> Shape32;
typedef Shape<4, 8> Shape64;

template <class S>
struct Room {
    uint8_t* queries;  // [rows][KEY_DIM], as factors
    uint8_t* tiles;    // [STAGES][KEYS][KEY_DIM]
    uint8_t* weights;  // [rows][KEYS], as factors

    __device__ __forceinline__ explicit Room(uint8_t* shared)
        : queries(shared), tiles(queries + S::queries_bytes), weights(tiles + STAGES * S::tile_bytes) {}

    __device__ __forceinline__ uint8_t* tile(int step) const { return tiles + step % STAGES * S::tile_bytes; }
};

// Small things that a block shares.
template <class S>
struct Notes {
    int rows[2][KEYS];                   // of the cache: a step's positions; below zero: none
    float scales[STAGES][KEYS];          // of an int8 cache
    float best[S::key_groups][S::rows];  // greatest scores of a step, then of all
    float kept[S::rows];                 // what earlier sums of a row are multiplied by
    float total[S::key_groups][S::rows];
};

// Copies the rows of a step's positions. What is not there becomes zero: it is multiplied by a weight of zero, and must be
// a number.
template <class S>
__device__ __forceinline__ void fetch(const Problem& problem, const int* rows, uint8_t* to, float* scales) {
#pragma unroll 3
    for (int index = threadIdx.x; index < KEYS * S::pieces; index += S::threads) {
        int key = index / S::pieces, piece = index % S::pieces;
        if (piece * PIECE >= problem.head_dim) continue;
        int row = rows[key];
        copy_async_16(to + piece_at<S::row_bytes>(key, piece),
                      problem.keys + int64_t(max(row, 0)) * problem.head_dim + piece * PIECE, row >= 0);
    }
    if (FORMAT::scaled && threadIdx.x < KEYS) {
        int row = rows[threadIdx.x];
        copy_async_4(scales + threadIdx.x, problem.key_scales + max(row, 0), row >= 0);
    }
}

// A lane's scores of its warp's keys, and its sums of its warp's columns.
template <class S>
struct Scores {
    float of[S::group_keys / 8][4];
};

template <class S>
struct Sums {
    float of[S::m_tiles][S::columns / 8][4];
};

template <class S>
__device__ __forceinline__ void multiply_keys(const Problem& problem, const Room<S>& room, const uint8_t* tile,
                                              Scores<S>& scores) {
    constexpr int steps = 4 / sizeof(Element);  // of 64 bytes
    int warp = threadIdx.x / 32;
    int first_row = warp % S::m_tiles * 16, first_key = warp / S::m_tiles * S::group_keys;
    // Two sums for every other step, for one would wait for itself.
    float sums[2][S::group_keys / 8][4] = {};
    int quads = (problem.head_dim + 16 * steps - 1) / (16 * steps);
#pragma unroll 2
    for (int quad = 0; quad < quads; quad++) {
        uint32_t query[steps][4];
#pragma unroll
        for (int i = 0; i < steps; i++) query_fragment<KEY_DIM>(query[i], room.queries, first_row, steps * quad + i);
#pragma unroll
        for (int n = 0; n < S::group_keys / 8; n++) {
            with_eight_keys<S::row_bytes>(tile, first_key + 8 * n, quad, [&](int i, const uint32_t* key) {
                Product::add(sums[i % 2][n], query[i], key);
            });
        }
    }
#pragma unroll
    for (int n = 0; n < S::group_keys / 8; n++) {
        for (int i = 0; i < 4; i++) scores.of[n][i] = sums[0][n][i] + sums[1][n][i];
    }
}

// A lane's two rows of scores: what they see, and their weights so far.
struct ScoredRows {
    int begin[2];
    int end[2];
    float best[2];
    float total[2];  // of the lane's columns
};

// Scales scores and hides what a row doesn't see; notes the greatest of the warp's keys.
template <class S>
__device__ __forceinline__ void scale_scores(const Problem& problem, Notes<S>& notes, int stage, int first_key,
                                             const ScoredRows& rows, Scores<S>& scores) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int group = warp / S::m_tiles, row = warp % S::m_tiles * 16 + lane / 4;
    float greatest[2] = {-INFINITE, -INFINITE};
#pragma unroll
    for (int n = 0; n < S::group_keys / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = group * S::group_keys + 8 * n + lane % 4 * 2 + i % 2;
            float score = scores.of[n][i] * problem.scale;
            if (FORMAT::scaled) score *= notes.scales[stage][key];
            bool is_seen = first_key + key >= rows.begin[i / 2] && first_key + key < rows.end[i / 2];
            scores.of[n][i] = is_seen ? score : -INFINITE;
            greatest[i / 2] = fmaxf(greatest[i / 2], scores.of[n][i]);
        }
    }
    for (int half = 0; half < 2; half++) {
        float best = row_max(greatest[half]);
        if (lane % 4 == 0) notes.best[group][row + 8 * half] = best;
    }
}

// From scores to weights, once all warps' greatest scores are known.
template <class S>
__device__ __forceinline__ void weigh(Notes<S>& notes, const Room<S>& room, int stage, ScoredRows& rows, Scores<S>& scores) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int group = warp / S::m_tiles, row = warp % S::m_tiles * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float best = rows.best[half];
        for (int other = 0; other < S::key_groups; other++) best = fmaxf(best, notes.best[other][row + 8 * half]);
        // Where nothing was seen yet, infinities must not meet.
        float base = best == -INFINITE ? 0.0f : best;
        float kept = fast_exp2(rows.best[half] - base);
        rows.best[half] = best;
        if (group == 0 && lane % 4 == 0) notes.kept[row + 8 * half] = kept;
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < S::group_keys / 8; n++) {
            float* own = scores.of[n] + 2 * half;
            own[0] = fast_exp2(own[0] - base);
            own[1] = fast_exp2(own[1] - base);
            total += own[0] + own[1];
            int key = group * S::group_keys + 8 * n + lane % 4 * 2;
            float2 scales = make_float2(1.0f, 1.0f);
            if (FORMAT::scaled) scales = *reinterpret_cast<const float2*>(notes.scales[stage] + key);
            uint8_t* to = room.weights + (row + 8 * half) * S::weights_stride + 2 * key;
            *reinterpret_cast<uint32_t*>(to) = Product::pack(own[0] * scales.x, own[1] * scales.y);
        }
        rows.total[half] = rows.total[half] * kept + total;
    }
}

// Adds the weighted values of the warp's columns.
template <class S>
__device__ __forceinline__ void multiply_values(const Problem& problem, const Notes<S>& notes, const Room<S>& room,
                                                const uint8_t* tile, Sums<S>& sums) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    bool moved = false;
    float kept[S::m_tiles][2];
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
        for (int half = 0; half < 2; half++) {
            kept[m][half] = notes.kept[16 * m + 8 * half + lane / 4];
            moved = moved || kept[m][half] != 1.0f;
        }
    }
    // After some steps the greatest scores stay what they are.
    if (__any_sync(ALL_LANES, moved)) {
#pragma unroll
        for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
            for (int n = 0; n < S::columns / 8; n++) {
                for (int i = 0; i < 4; i++) sums.of[m][n][i] *= kept[m][i / 2];
            }
        }
    }
    int first_column = problem.head_dim - problem.value_dim + warp * S::columns;
    const uint8_t* columns = tile + first_column * sizeof(Element);
#pragma unroll
    for (int pair = 0; pair < KEYS / 16; pair++) {
        uint32_t weights[S::m_tiles][4];
#pragma unroll
        for (int m = 0; m < S::m_tiles; m++) {
            ldmatrix_x4(weights[m],
                        room.weights + (16 * m + lane % 16) * S::weights_stride + 32 * pair + lane / 16 * 16);
        }
#pragma unroll
        for (int span = 0; span < int(S::columns * sizeof(Element)) / 32; span++) {
            with_values<S::row_bytes>(columns, 16 * pair, span, [&](int n, const uint32_t* value) {
#pragma unroll
                for (int m = 0; m < S::m_tiles; m++) Product::add(sums.of[m][n], weights[m], value);
            });
        }
    }
}

// The tile's keys, from first to last; then the answer, or partial result `partial`.
template <class S>
__device__ __forceinline__ void attend(const Problem& problem, const Tile& tile, const Room<S>& room, Notes<S>& notes,
                                       bool is_whole, int64_t partial) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int group = warp / S::m_tiles, scored_row = warp % S::m_tiles * 16 + lane / 4;
    auto look_up = [&](int step) {
        int key = tile.begin + step * KEYS + int(threadIdx.x);
        return key < tile.end ? key_row(problem, tile, key) : -1;
    };
    int steps = (tile.end - tile.begin + KEYS - 1) / KEYS;
    if (threadIdx.x < KEYS) {
        notes.rows[0][threadIdx.x] = look_up(0);
        notes.rows[1][threadIdx.x] = look_up(1);
    }
    __syncthreads();
    fetch<S>(problem, notes.rows[0], room.tile(0), notes.scales[0]);
    copy_async_commit();
    load_queries<S::rows, KEY_DIM, S::threads>(problem, tile, room.queries);
    // Steps of products may take elements beyond a key's last, up to 64 bytes together.
    int first_piece = problem.head_dim / PIECE, end_piece = (first_piece + 3) / 4 * 4;
    for (int index = threadIdx.x; index < STAGES * KEYS * (end_piece - first_piece); index += S::threads) {
        int row = index / (end_piece - first_piece), piece = first_piece + index % (end_piece - first_piece);
        *reinterpret_cast<uint4*>(room.tile(row / KEYS) + piece_at<S::row_bytes>(row % KEYS, piece)) =
            make_uint4(0, 0, 0, 0);
    }

    ScoredRows rows;
    for (int half = 0; half < 2; half++) {
        Row row = row_of(tile, scored_row + 8 * half);
        rows.begin[half] = first_seen(problem, row.position);
        rows.end[half] = row.position + 1;
        rows.best[half] = -INFINITE;
        rows.total[half] = 0.0f;
    }
    Sums<S> sums = {};
    for (int step = 0; step < steps; step++) {
        // A step's rows are there, and nobody reads those of the step before any more.
        copy_async_wait<0>();
        __syncthreads();
        int stage = step % STAGES, next = (step + 1) % STAGES;
        if (step + 1 < steps) {
            fetch<S>(problem, notes.rows[next], room.tile(next), notes.scales[next]);
            copy_async_commit();
        }
        int later_row = threadIdx.x < KEYS && step + 2 < steps ? look_up(step + 2) : -1;
        Scores<S> scores;
        multiply_keys<S>(problem, room, room.tile(stage), scores);
        scale_scores<S>(problem, notes, stage, tile.begin + step * KEYS, rows, scores);
        __syncthreads();
        weigh<S>(notes, room, stage, rows, scores);
        if (threadIdx.x < KEYS) notes.rows[stage][threadIdx.x] = later_row;
        __syncthreads();
        multiply_values<S>(problem, notes, room, room.tile(stage), sums);
    }

    for (int half = 0; half < 2; half++) {
        float total = row_sum(rows.total[half]);
        if (lane % 4 == 0) notes.total[group][scored_row + 8 * half] = total;
        if (lane % 4 == 0) notes.best[group][scored_row + 8 * half] = rows.best[half];
    }
    __syncthreads();
    int columns = problem.value_dim - warp * S::columns;
#pragma unroll
    for (int m = 0; m < S::m_tiles; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int at = 16 * m + 8 * half + lane / 4;
            Row row = row_of(tile, at);
            if (!row.valid) continue;
            float best = notes.best[0][at], total = 0.0f;
            for (int other = 0; other < S::key_groups; other++) total += notes.total[other][at];
            if (is_whole) {
                float share = share_of(problem, row.head, best, total);
                store_row(output_of(problem, row) + warp * S::columns, sums.of[m], half, share, columns);
            } else {
                float* to = problem.partial_values + (partial * S::rows + at) * problem.value_dim + warp * S::columns;
                store_row(to, sums.of[m], half, 1.0f, columns);
                if (warp == 0 && lane % 4 == 0) problem.partial_sums[partial * S::rows + at] = make_float2(best, total);
            }
        }
    }
    // What is shared may be used again.
    __syncthreads();
}

// ---- entries ----

// Few queries per sequence, all in one tile; contexts are dealt out to blocks (attention_shares.cuh).
template <class S>
__device__ __forceinline__ void attend_shares(const Problem& problem) {
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ Notes<S> notes;
    Room<S> room(shared);
    for_share<S::rows, S::threads>(problem, [&](const Tile& tile, bool is_whole, int64_t partial) {
        attend<S>(problem, tile, room, notes, is_whole, partial);
    });
}

// Many; blocks: tiles of queries, tiles of heads, splits.
template <class S>
__device__ __forceinline__ void attend_tile(const Problem& problem) {
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ Notes<S> notes;
    Tile tile;
    if (!find_tile(problem, S::rows, tile)) return;
    if (!take_split(problem, tile, blockIdx.z, KEYS_AT_ONCE, KEYS_LEAST)) return;
    attend<S>(problem, tile, Room<S>(shared), notes, tile.splits == 1, first_partial(problem) + blockIdx.z);
}

KERNEL(latent_16, 128)(Problem problem) { attend_shares<Shape16>(problem); }
KERNEL(latent_tiles_16, 128)(Problem problem) { attend_tile<Shape16>(problem); }
KERNEL(latent_merge_16, 128)(Problem problem) { merge_shares<16, 128>(problem); }
KERNEL(latent_merge_32, 128)(Problem problem) { merge_shares<32, 128>(problem); }
KERNEL(latent_merge_64, 128)(Problem problem) { merge_shares<64, 128>(problem); }
KERNEL(latent_tiles_merge_16, 128)(Problem problem) { merge_tile(problem, 16, KEYS_AT_ONCE, KEYS_LEAST); }
KERNEL(latent_tiles_merge_64, 128)(Problem problem) { merge_tile(problem, 64, KEYS_AT_ONCE, KEYS_LEAST); }

#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 1
KERNEL(latent_32, 256)(Problem problem) { attend_shares<Shape32>(problem); }
KERNEL(latent_64, 256)(Problem problem) { attend_shares<Shape64>(problem); }
KERNEL(latent_tiles_64, 256)(Problem problem) { attend_tile<Shape64>(problem); }

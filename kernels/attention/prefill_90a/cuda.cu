// Attention of many queries per sequence by products of warpgroups: GPUs of compute capability 9.0, heads of 128, a
// cache of 16-bit elements. All else is for attention/prefill/cuda.cu, where rows and tiles are explained.
//
// A block has three warpgroups. A warp of the first fetches keys and values, a ring of two steps of 128 positions each;
// the others compute, 64 rows each. A step's weights are computed while the step before is multiplied with its values:
// products need nothing of a thread while they run.
//
// Keys and values come in boxes (TMA) of half a head and as many slots as surely lie together in a block of the cache. A
// tile's keys begin where a box does; those that nobody sees are hidden.
//
// Who may use which part of the ring is said by barriers in shared memory: one for each part that is there to be read,
// and one for each that all have read.
//
// variants: FORMAT f16 bf16
// architectures: sm_90a

#define BLOCKS_AT_LEAST 1
#include "attention_fragments.cuh"
#include "tensor_map.cuh"
#include "warpgroups.cuh"

#define DIM 128
#define KEYS 128
#define STAGES 2
#define CONSUMERS 2
#define ROWS 128
#define THREADS 384
#define MERGE_THREADS 128
// Splits but for a tile's last are multiples of so many keys; each has so many at least.
#define KEYS_LEAST 256
// Together no more than a block is given: 384 × 168.
#define FETCHING_REGISTERS 40
#define COMPUTING_REGISTERS 232

static_assert(OTHER_PAIR == 8, "the elements of a query keep their order");
static_assert(ROWS == 64 * CONSUMERS && THREADS == 128 * (CONSUMERS + 1), "rows of a warpgroup");
// The consumers' last steps differ by one at most, so that none waits for a part that another will not read.
static_assert(ROWS - 64 <= KEYS && STAGES >= 2, "consumers end together");

// Of a tile: the first 64 elements of each row, then the others.
#define HALF_ROWS 64
#define QUERY_HALF_BYTES (HALF_ROWS * SWIZZLED_ROW)
#define QUERIES_BYTES (2 * QUERY_HALF_BYTES)
#define KEY_HALF_BYTES (KEYS * SWIZZLED_ROW)
#define KEYS_BYTES (2 * KEY_HALF_BYTES)
#define HALF_DIM (DIM / 2)
// Where a box begins that has no row of the cache, and so becomes zero.
#define NOWHERE (-KEYS)

// As `KvBoxes` in cuda/kv_cache.rs: a layer's keys and values as matrices of a row for each slot of each KV head.
struct Boxes {
    TensorMap keys;
    TensorMap values;
    int rows;  // of a box: a power of two from 8 to KEYS that divides the cache's block size
};

template <class Format>
struct Warpgroup {
    static __device__ __forceinline__ void rows(float (&d)[64], uint64_t a, uint64_t b, bool adds) {
        warpgroup_rows_f16(d, a, b, adds);
    }
    static __device__ __forceinline__ void columns(float (&d)[64], const uint32_t* a, uint64_t b) {
        warpgroup_columns_f16(d, a, b);
    }
};

template <>
struct Warpgroup<BF16> {
    static __device__ __forceinline__ void rows(float (&d)[64], uint64_t a, uint64_t b, bool adds) {
        warpgroup_rows_bf16(d, a, b, adds);
    }
    static __device__ __forceinline__ void columns(float (&d)[64], const uint32_t* a, uint64_t b) {
        warpgroup_columns_bf16(d, a, b);
    }
};

// A block's shared memory.
struct Room {
    uint8_t* queries;        // [CONSUMERS][2][64][64] elements
    uint8_t* keys;           // [STAGES][2][KEYS][64]
    uint8_t* values;         // likewise
    uint64_t* queries_ready; // [CONSUMERS]
    uint64_t* keys_ready;    // [STAGES]
    uint64_t* keys_free;
    uint64_t* values_ready;
    uint64_t* values_free;
    uint64_t* last_values_came;  // and some of them are to be cleared before they are ready
};

// A part of the ring, and how often it was used before.
__device__ __forceinline__ int stage_of(int step) { return step % STAGES; }
__device__ __forceinline__ int parity_of(int step) { return step / STAGES % 2; }

// Of a warp: what its threads did is done. The barrier counts warps.
__device__ __forceinline__ void warp_arrive(uint64_t* barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// A step's keys, or values, in boxes whose first rows the warp's lanes know.
__device__ __forceinline__ void fetch(const TensorMap& from, int box_rows, int own_row, uint8_t* to,
                                      uint64_t* barrier) {
    bool is_elected = threadIdx.x == 0;
    if (is_elected) barrier_arrive_expecting(barrier, KEYS_BYTES);
    for (int box = 0, first = 0; first < KEYS; box++, first += box_rows) {
        int row = __shfl_sync(ALL_LANES, own_row, box);
        if (!is_elected) continue;
        copy_box(to + first * SWIZZLED_ROW, from, 0, row, barrier);
        copy_box(to + KEY_HALF_BYTES + first * SWIZZLED_ROW, from, HALF_DIM, row, barrier);
    }
}

// The last step's values once they came. What lies in the last box behind the tile's end is whatever others left in the
// cache: it will be multiplied by weights of zero, and must be a number.
__device__ __forceinline__ void clear_behind(int end, int box_rows, uint8_t* values) {
    constexpr int PIECES = DIM / PIECE;
    int box_end = (end + box_rows - 1) / box_rows * box_rows;
    for (int at = int(threadIdx.x); at < (box_end - end) * PIECES; at += 32) {
        int row = end + at / PIECES, piece = at % PIECES;
        store_factors(values + piece / 8 * KEY_HALF_BYTES + swizzled_piece(row, piece % 8), make_uint4(0, 0, 0, 0));
    }
    fence_async_proxy();
}

// What one warp does, while the others compute.
__device__ __forceinline__ void fetch_all(const Problem& problem, const Boxes& boxes, const Tile& tile,
                                          const Room& room, int steps) {
    for (int step = 0; step < steps; step++) {
        int stage = stage_of(step), key = tile.begin + step * KEYS + int(threadIdx.x) * boxes.rows;
        int row = key < tile.end ? key_row(problem, tile, key) : NOWHERE;
        if (step >= STAGES) barrier_wait(room.keys_free + stage, parity_of(step - STAGES));
        fetch(boxes.keys, boxes.rows, row, room.keys + stage * KEYS_BYTES, room.keys_ready + stage);
        if (step >= STAGES) barrier_wait(room.values_free + stage, parity_of(step - STAGES));
        bool is_last = step == steps - 1;
        fetch(boxes.values, boxes.rows, row, room.values + stage * KEYS_BYTES,
              is_last ? room.last_values_came : room.values_ready + stage);
    }
    if (steps == 0) return;
    int last = steps - 1, stage = stage_of(last);
    barrier_wait(room.last_values_came, 0);
    clear_behind(tile.end - tile.begin - last * KEYS, boxes.rows, room.values + stage * KEYS_BYTES);
    warp_arrive(room.values_ready + stage);
}

// A warpgroup's queries as factors of products.
__device__ __forceinline__ void load_own_queries(const Problem& problem, const Tile& tile, int first_row, uint8_t* to) {
    int thread = threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int at = thread / 16 + 8 * i, piece = thread % 16;
        Row row = row_of(tile, first_row + at);
        float elements[8] = {};
        if (row.valid) load_8(query_of(problem, row) + 8 * piece, elements);
        uint4 packed = make_uint4(Product::pack(elements[0], elements[1]), Product::pack(elements[2], elements[3]),
                                  Product::pack(elements[4], elements[5]), Product::pack(elements[6], elements[7]));
        store_factors(to + piece / 8 * QUERY_HALF_BYTES + swizzled_piece(at, piece % 8), packed);
    }
}

// A thread has of its warp's 16 rows the rows g and g + 8: what each sees, and its sums so far.
struct Sums {
    int position[2];
    float best[2];
    float total[2];  // of the thread's columns
    float kept[2];   // what a step leaves of the sums before it
    float values[64];
};

__device__ __forceinline__ void multiply_keys(const Room& room, int warpgroup, int stage, float (&scores)[64]) {
    const uint8_t* queries = room.queries + warpgroup * QUERIES_BYTES;
    const uint8_t* keys = room.keys + stage * KEYS_BYTES;
    warpgroup_fence();
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        int half = step / 4, bytes = step % 4 * 32;
        Warpgroup<FORMAT>::rows(scores, swizzled_tile(queries + half * QUERY_HALF_BYTES + bytes, 0),
                                swizzled_tile(keys + half * KEY_HALF_BYTES + bytes, 0), step > 0);
    }
    warpgroup_commit();
}

__device__ __forceinline__ void multiply_values(const Room& room, int stage, const uint32_t* weights, Sums& sums) {
    const uint8_t* values = room.values + stage * KEYS_BYTES;
    warpgroup_fence();
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        Warpgroup<FORMAT>::columns(sums.values, weights + 4 * step,
                                   swizzled_tile(values + step * 16 * SWIZZLED_ROW, KEY_HALF_BYTES));
    }
    warpgroup_commit();
}

// Hides what a row doesn't see.
__device__ __forceinline__ void hide(const Problem& problem, int first_key, const Sums& sums, float (&scores)[64]) {
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // From the first score's key.
        int begin = first_seen(problem, sums.position[half]) - first_key - column;
        int end = sums.position[half] + 1 - first_key - column;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (8 * n + i < begin || 8 * n + i >= end) scores[4 * n + 2 * half + i] = -INFINITE;
            }
        }
    }
}

// From scores to weights.
__device__ __forceinline__ void weigh(float scale, float (&scores)[64], Sums& sums) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float greatest = scores[2 * half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            greatest = fmaxf(greatest, fmaxf(scores[4 * n + 2 * half], scores[4 * n + 2 * half + 1]));
        }
        float best = fmaxf(sums.best[half], row_max(greatest) * scale);
        // Where nothing was seen yet, infinities must not meet.
        float base = best == -INFINITE ? 0.0f : best;
        sums.kept[half] = fast_exp2(sums.best[half] - base);
        sums.best[half] = best;
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& own = scores[4 * n + 2 * half + i];
                own = fast_exp2(own * scale - base);
                total += own;
            }
        }
        sums.total[half] = sums.total[half] * sums.kept[half] + total;
    }
}

// Scores lie on the lanes as the products with values want them.
__device__ __forceinline__ void pack_weights(const float (&scores)[64], uint32_t (&weights)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i++) weights[i] = Product::pack(scores[2 * i], scores[2 * i + 1]);
}

__device__ __forceinline__ void keep(Sums& sums) {
    // After some steps the greatest scores stay what they are.
    if (!__any_sync(ALL_LANES, sums.kept[0] != 1.0f || sums.kept[1] != 1.0f)) return;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums.values[4 * n + i] *= sums.kept[i / 2];
    }
}

__device__ __forceinline__ void compute(const Problem& problem, const Tile& tile, const Room& room) {
    int warpgroup = threadIdx.x / 128 - 1, first_row = 64 * warpgroup;
    int own_row = first_row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    auto position_of = [&](int row) {
        return min(row_of(tile, row).position, tile.first_position + tile.queries - 1);
    };
    int first_position = position_of(first_row), last_position = position_of(first_row + 63);
    int steps = (min(tile.end, last_position + 1) - tile.begin + KEYS - 1) / KEYS;

    load_own_queries(problem, tile, first_row, room.queries + warpgroup * QUERIES_BYTES);
    fence_async_proxy();
    warp_arrive(room.queries_ready + warpgroup);

    Sums sums;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sums.position[half] = position_of(own_row + 8 * half);
        sums.best[half] = -INFINITE;
        sums.total[half] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 64; i++) sums.values[i] = 0.0f;

    float scores[64];
    uint32_t weights[32];
    auto weigh_step = [&](int step) {
        int first_key = tile.begin + step * KEYS;
        bool all_seen = first_key >= first_seen(problem, last_position) && first_key + KEYS <= first_position + 1;
        if (!all_seen) hide(problem, first_key, sums, scores);
        weigh(problem.scale, scores, sums);
    };
    barrier_wait(room.queries_ready + warpgroup, 0);
    if (steps > 0) {
        barrier_wait(room.keys_ready, 0);
        multiply_keys(room, warpgroup, 0, scores);
        warpgroup_wait<0>(scores);
        warp_arrive(room.keys_free);
        weigh_step(0);
        pack_weights(scores, weights);
        for (int step = 1; step < steps; step++) {
            int stage = stage_of(step), before = stage_of(step - 1);
            barrier_wait(room.keys_ready + stage, parity_of(step));
            multiply_keys(room, warpgroup, stage, scores);
            barrier_wait(room.values_ready + before, parity_of(step - 1));
            multiply_values(room, before, weights, sums);
            warpgroup_wait<1>(scores);
            warp_arrive(room.keys_free + stage);
            weigh_step(step);
            warpgroup_wait<0>(sums.values);
            warp_arrive(room.values_free + before);
            keep(sums);
            pack_weights(scores, weights);
        }
        barrier_wait(room.values_ready + stage_of(steps - 1), parity_of(steps - 1));
        multiply_values(room, stage_of(steps - 1), weights, sums);
        warpgroup_wait<0>(sums.values);
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        int at = own_row + 8 * half, column = threadIdx.x % 4 * 2;
        Row row = row_of(tile, at);
        float best = sums.best[half], total = row_sum(sums.total[half]);
        if (!row.valid) continue;
        if (tile.splits == 1) {
            float share = share_of(problem, row.head, best, total);
            act* to = output_of(problem, row) + column;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                store_2(to + 8 * n, sums.values[4 * n + 2 * half] * share, sums.values[4 * n + 2 * half + 1] * share);
            }
        } else {
            int64_t partial = (first_partial(problem) + blockIdx.z) * ROWS + at;
            float* to = problem.partial_values + partial * DIM + column;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                store_2(to + 8 * n, sums.values[4 * n + 2 * half], sums.values[4 * n + 2 * half + 1]);
            }
            if (column == 0) problem.partial_sums[partial] = make_float2(best, total);
        }
    }
}

// Blocks: tiles of queries, tiles of heads, splits.
KERNEL(prefill_90a_128, THREADS)(Problem problem, const __grid_constant__ Boxes boxes) {
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ uint64_t queries_ready[CONSUMERS];
    __shared__ uint64_t keys_ready[STAGES];
    __shared__ uint64_t keys_free[STAGES];
    __shared__ uint64_t values_ready[STAGES];
    __shared__ uint64_t values_free[STAGES];
    __shared__ uint64_t last_values_came;
    Tile tile;
    if (!find_tile(problem, ROWS, tile)) return;
    begin_at_multiple(tile, boxes.rows);
    if (!take_split(problem, tile, blockIdx.z, KEYS, KEYS_LEAST)) return;
    Room room;
    room.queries = shared + (SWIZZLED_ALIGNMENT - shared_address(shared) % SWIZZLED_ALIGNMENT) % SWIZZLED_ALIGNMENT;
    room.keys = room.queries + CONSUMERS * QUERIES_BYTES;
    room.values = room.keys + STAGES * KEYS_BYTES;
    room.queries_ready = queries_ready;
    room.keys_ready = keys_ready;
    room.keys_free = keys_free;
    room.values_ready = values_ready;
    room.values_free = values_free;
    room.last_values_came = &last_values_came;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(boxes.keys);
        prefetch_tensor_map(boxes.values);
        for (int at = 0; at < CONSUMERS; at++) barrier_init(queries_ready + at, 4);
        for (int at = 0; at < STAGES; at++) {
            barrier_init(keys_ready + at, 1);
            barrier_init(keys_free + at, 4 * CONSUMERS);
            barrier_init(values_ready + at, 1);
            barrier_init(values_free + at, 4 * CONSUMERS);
        }
        barrier_init(&last_values_came, 1);
        fence_async_proxy();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        give_registers<FETCHING_REGISTERS>();
        if (threadIdx.x < 32) fetch_all(problem, boxes, tile, room, (tile.end - tile.begin + KEYS - 1) / KEYS);
    } else {
        take_registers<COMPUTING_REGISTERS>();
        compute(problem, tile, room);
    }
}

// Blocks: tiles of queries, tiles of heads.
KERNEL(prefill_90a_merge_128, MERGE_THREADS)(Problem problem, const __grid_constant__ Boxes boxes) {
    merge_tile(problem, ROWS, KEYS, KEYS_LEAST, boxes.rows);
}

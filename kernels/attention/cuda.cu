// Attention without tensor cores, for every storage format, head dim and type of activations; and the merging of splits.
//
// A warp takes one row at a time and 32 keys at once: each lane scores one key, then each lane sums some columns of the
// values. In f32 it is as exact as the CPU, which is what it is for. Each row reads all its keys and values, mostly out of
// caches: it moves as many bytes per query head as kernels that share tiles move per KV head.
//
// variants: FORMAT f32 f16 bf16 wint8 f8_e4m3

#define BLOCKS_AT_LEAST 8
#include "attention.cuh"

// Rows of a tile. As in attention/cuda/plain.rs.
#define ROWS 16
#define THREADS 128
#define KEYS_AT_ONCE 32
#define KEYS_LEAST 256

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T elements[4];
};

// A query in shared memory times a key. Four chains, each of every fourth element.
__device__ float dot(const float* query, const Element* key, int dim) {
    float chains[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (dim % 4 == 0) {
        for (int d = 0; d < dim; d += 4) {
            Four<Element> four = *reinterpret_cast<const Four<Element>*>(key + d);
            for (int i = 0; i < 4; i++) chains[i] += query[d + i] * to_float(four.elements[i]);
        }
    } else {
        for (int d = 0; d < dim; d++) chains[0] += query[d] * to_float(key[d]);
    }
    return (chains[0] + chains[1]) + (chains[2] + chains[3]);
}

// A warp's room in shared memory.
struct Room {
    float* query;   // [head_dim]
    float* values;  // [value_dim], the sum of weighted values so far
    float* weights; // [KEYS_AT_ONCE]
    int* rows;      // [KEYS_AT_ONCE], of the cache
};

// Adds the keys from `begin` to `end` to the sum of weighted values; gives the greatest score and the sum of weights.
__device__ float2 attend_row(const Problem& problem, const Tile& tile, const Room& room, int begin, int end) {
    int lane = threadIdx.x % 32;
    float best = -INFINITE, total = 0.0f;
    for (int first = begin; first < end; first += KEYS_AT_ONCE) {
        int count = min(KEYS_AT_ONCE, end - first);
        float score = -INFINITE, value_scale = 1.0f;
        int row = 0;
        if (lane < count) {
            row = key_row(problem, tile, first + lane);
            score = dot(room.query, problem.keys + int64_t(row) * problem.head_dim, problem.head_dim) * problem.scale;
            if (FORMAT::scaled) {
                score *= problem.key_scales[row];
                value_scale = problem.value_scales[row];
            }
        }
        float greatest = fmaxf(best, warp_max(score));
        float kept = exp2f(best - greatest);
        float weight = exp2f(score - greatest);
        best = greatest;
        total = total * kept + weight;
        room.weights[lane] = weight * value_scale;
        room.rows[lane] = row;
        __syncwarp();
        for (int d = lane; d < problem.value_dim; d += 32) {
            float sum = room.values[d] * kept;
#pragma unroll 4
            for (int key = 0; key < count; key++) {
                sum += room.weights[key] * to_float(problem.values[int64_t(room.rows[key]) * problem.head_dim + d]);
            }
            room.values[d] = sum;
        }
        __syncwarp();
    }
    return make_float2(best, warp_sum(total));
}

// Blocks: tiles of queries, KV heads, splits.
KERNEL(attend, THREADS)(Problem problem) {
    DYNAMIC_SHARED(float, shared);
    Tile tile;
    if (!find_tile(problem, ROWS, tile)) return;
    if (!take_split(problem, tile, blockIdx.z, KEYS_AT_ONCE, KEYS_LEAST)) return;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Room room;
    room.query = shared + warp * (problem.head_dim + problem.value_dim + 2 * KEYS_AT_ONCE);
    room.values = room.query + problem.head_dim;
    room.weights = room.values + problem.value_dim;
    room.rows = reinterpret_cast<int*>(room.weights + KEYS_AT_ONCE);
    int64_t partial = (first_partial(problem) + blockIdx.z) * ROWS;
    for (int index = warp; index < ROWS; index += THREADS / 32) {
        Row row = row_of(tile, index);
        if (!row.valid) continue;
        const act* query = problem.qkv + int64_t(row.token) * problem.row_columns + row.head * problem.head_dim;
        for (int d = lane; d < problem.head_dim; d += 32) room.query[d] = to_float(query[d]);
        for (int d = lane; d < problem.value_dim; d += 32) room.values[d] = 0.0f;
        __syncwarp();
        int begin = max(tile.begin, first_seen(problem, row.position)), end = min(tile.end, row.position + 1);
        float2 sums = attend_row(problem, tile, room, begin, end);
        if (tile.splits == 1) {
            float share = share_of(problem, row.head, sums.x, sums.y);
            act* output = output_of(problem, row);
            for (int d = lane; d < problem.value_dim; d += 32) output[d] = from_float<act>(room.values[d] * share);
        } else {
            float* values = problem.partial_values + (partial + index) * problem.value_dim;
            for (int d = lane; d < problem.value_dim; d += 32) values[d] = room.values[d];
            if (lane == 0) problem.partial_sums[partial + index] = sums;
        }
        __syncwarp();
    }
}

#undef BLOCKS_AT_LEAST
#define BLOCKS_AT_LEAST 4
KERNEL(merge, THREADS)(Problem problem) { merge_tile(problem, ROWS, KEYS_AT_ONCE, KEYS_LEAST); }

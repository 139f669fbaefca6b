// What all attention kernels share: the problem, the rows that a block works on, and how results are put together.
//
// A *row* is one query head of one query. Rows that read the same KV head lie together in a tile: all heads of its first
// query, then all of the next. A tile's keys may be split among blocks; what each found is merged afterwards.
//
// Scores are kept in units of log₂ e, so that a weight is exp2f of their difference to the greatest.

#ifndef SHARDWIRE_ATTENTION_CUH
#define SHARDWIRE_ATTENTION_CUH

#include "device.cuh"
#include "kv_cache.cuh"

// As `Problem` in attention/cuda/problem.rs: the same fields in the same order.
struct Problem {
    act* output;                      // [tokens, query_heads × value_dim]
    float* partial_values;            // [partials][rows of a tile][value_dim]
    float2* partial_sums;             // [partials][rows of a tile]: greatest score, sum of weights
    const act* qkv;                   // [tokens, row_columns]
    const Element* keys;              // rows as in kv_cache.cuh
    const Element* values;            // rows as far apart as those of keys
    const float* key_scales;          // null where the format has none
    const float* value_scales;        // likewise
    const float* sinks;               // [query_heads], or null
    const uint32_t* query_starts;     // [sequences + 1]
    const uint32_t* context_lengths;  // [sequences]
    const uint32_t* block_tables;     // [sequences, table_width]
    int sequences;
    int table_width;
    int block_size;
    int row_columns;
    int query_heads;
    int kv_heads;
    int head_dim;
    int value_dim;
    int group;           // query heads that share a KV head in the whole model
    int first_in_group;  // the first query head's place in its group
    int packed;          // the most query heads that share a KV head here
    int window;          // positions that a query sees at most
    int queries_least;   // what sequences are for this kernel: those of so many queries …
    int queries_most;    // … to so many
    int splits;          // blocks that may share a tile's keys
    float scale;         // of scores, log₂ e included
};

// What a block works on.
struct Tile {
    int sequence;
    int queries;         // rows beyond these are empty
    int first_token;     // the first query's row in the batch …
    int first_position;  // … and position
    int kv_head;
    int first_head;      // query heads of the tile: those from `first_head` on …
    int heads;           // … and so many, fewer than `heads_stride` at the ends of the rank's share
    int heads_stride;    // rows from one query to the next
    int begin, end;      // keys that any row sees: those of the split, where there are several
    int splits;          // blocks that share the tile's keys
};

// One query head of one query.
struct Row {
    bool valid;
    int token;
    int head;
    int position;
};

// Keys from the first that a query sees.
__device__ __forceinline__ int first_seen(const Problem& problem, int position) {
    return max(0, position + 1 - problem.window);
}

__device__ __forceinline__ Row row_of(const Tile& tile, int index) {
    int query = index / tile.heads_stride, head = index % tile.heads_stride;
    bool valid = query < tile.queries && head < tile.heads;
    return Row{valid, tile.first_token + query, tile.first_head + head, tile.first_position + query};
}

// The sequence that tile `index` of tiles of `tile_queries` queries belongs to, and its place there. Sequence i has room
// for its tiles from query_starts[i] / tile_queries + i on: as many as it needs, whatever remainders are before it.
__device__ __forceinline__ int find_sequence(const Problem& problem, int tile_queries, int index, int& within) {
    int low = 0, high = problem.sequences;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (int(problem.query_starts[middle]) / tile_queries + middle <= index) {
            low = middle;
        } else {
            high = middle;
        }
    }
    within = index - (int(problem.query_starts[low]) / tile_queries + low);
    return low;
}

// Has the tile's keys begin at a multiple of so many, with some that no row sees.
__device__ __forceinline__ void begin_at_multiple(Tile& tile, int keys) { tile.begin -= tile.begin % keys; }

// Narrows the tile's keys to those of split `index`; false where there is nothing left for it. Splits are whole multiples
// of `keys_at_once` keys, and `keys_least` at least.
__device__ __forceinline__ bool take_split(const Problem& problem, Tile& tile, int index, int keys_at_once, int keys_least) {
    int keys = tile.end - tile.begin;
    int each = max((keys + problem.splits - 1) / problem.splits, keys_least);
    each = (each + keys_at_once - 1) / keys_at_once * keys_at_once;
    tile.splits = (keys + each - 1) / each;
    if (index >= tile.splits) return false;
    tile.begin += index * each;
    tile.end = min(tile.end, tile.begin + each);
    return true;
}

// Tiles of `rows` rows take the query heads of a KV head together, as far as they can.
__device__ __forceinline__ int head_tiles(const Problem& problem, int rows) {
    return (problem.packed + rows - 1) / rows;
}

// Tile `within` of the sequence's tiles of queries, and tile `index` of its heads; false where it has no rows, or the
// sequence isn't for this kernel.
__device__ __forceinline__ bool find_rows(const Problem& problem, int rows, int sequence, int within, int index, Tile& tile) {
    int tile_queries = max(1, rows / problem.packed);
    int start = problem.query_starts[sequence];
    int count = int(problem.query_starts[sequence + 1]) - start;
    tile.sequence = sequence;
    tile.queries = min(tile_queries, count - within * tile_queries);
    if (tile.queries <= 0 || count < problem.queries_least || count > problem.queries_most) return false;
    tile.first_token = start + within * tile_queries;
    tile.first_position = int(problem.context_lengths[sequence]) - count + within * tile_queries;

    tile.heads_stride = min(problem.packed, rows);
    int tiles = head_tiles(problem, rows);
    tile.kv_head = index / tiles;
    int first = max(0, tile.kv_head * problem.group - problem.first_in_group);
    int end = min(problem.query_heads, (tile.kv_head + 1) * problem.group - problem.first_in_group);
    tile.first_head = first + index % tiles * rows;
    tile.heads = min(tile.heads_stride, end - tile.first_head);
    if (tile.heads <= 0) return false;

    tile.begin = first_seen(problem, tile.first_position);
    tile.end = tile.first_position + tile.queries;
    tile.splits = 1;
    return true;
}

// The tile of block (x, y): x counts tiles of queries, the last first, because the last queries of a long sequence have
// the most to do; y counts tiles of heads.
__device__ __forceinline__ bool find_tile(const Problem& problem, int rows, Tile& tile) {
    int within;
    int sequence = find_sequence(problem, max(1, rows / problem.packed), gridDim.x - 1 - blockIdx.x, within);
    return find_rows(problem, rows, sequence, within, blockIdx.y, tile);
}

// The row of the cache that holds key `key` of the tile's sequence.
__device__ __forceinline__ int key_row(const Problem& problem, const Tile& tile, int key) {
    const uint32_t* blocks = problem.block_tables + int64_t(tile.sequence) * problem.table_width;
    int block = key / problem.block_size;
    return kv_row(blocks[block], problem.kv_heads, tile.kv_head, problem.block_size, key - block * problem.block_size);
}

// What a sum of weighted values is multiplied by to become the answer, where `best` is the greatest score and `total` the
// sum of weights. A sink joins the weights without a value.
__device__ __forceinline__ float share_of(const Problem& problem, int head, float best, float total) {
    if (!problem.sinks) return __fdividef(1.0f, total);
    float sink = problem.sinks[head] * LOG2_E;
    float greatest = fmaxf(best, sink);
    float factor = exp2f(best - greatest);
    return __fdividef(factor, total * factor + exp2f(sink - greatest));
}

__device__ __forceinline__ act* output_of(const Problem& problem, const Row& row) {
    return problem.output + (int64_t(row.token) * problem.query_heads + row.head) * problem.value_dim;
}

// The first partial result of block (x, y), where each of `splits` blocks has one.
__device__ __forceinline__ int64_t first_partial(const Problem& problem) {
    return (int64_t(blockIdx.x) * gridDim.y + blockIdx.y) * problem.splits;
}

// Columns of `count` partial results, weighted and summed; `at(i)` is the i-th, which lies `weight_of(i)` heavy in the sum.
// Each lane has `width` columns that lie together. There are few warps that do this: what one reads is to be on its way
// at once.
template <int width, class At, class WeightOf>
__device__ __forceinline__ void merge_columns(const Problem& problem, act* output, float share, int count, At at,
                                              WeightOf weight_of) {
    int lane = threadIdx.x % 32;
    for (int first = 0; first < problem.value_dim; first += width * 32) {
        int column = first + width * lane;
        bool is_own = column < problem.value_dim;
        float sum[width] = {};
        for (int start = 0; start < count; start += 32) {
            float weight = start + lane < count ? weight_of(start + lane) : 0.0f;
#pragma unroll 8
            for (int i = 0; i < min(32, count - start); i++) {
                float of_result = __shfl_sync(ALL_LANES, weight, i);
                if (!is_own) continue;
                const float* from = problem.partial_values + at(start + i) * problem.value_dim + column;
                float values[width];
                if constexpr (width == 4) {
                    *reinterpret_cast<float4*>(values) = *reinterpret_cast<const float4*>(from);
                } else {
                    values[0] = *from;
                }
                for (int c = 0; c < width; c++) sum[c] += of_result * values[c];
            }
        }
        if (!is_own) continue;
        for (int c = 0; c < width; c++) output[column + c] = from_float<act>(sum[c] * share);
    }
}

// Merges row `index` of `count` partial results of as many `rows`, which `partial_of` names. All lanes of a warp come here.
template <class PartialOf>
__device__ void merge_row(const Problem& problem, const Row& row, int rows, int index, int count, PartialOf partial_of) {
    auto at = [&](int i) { return partial_of(i) * rows + index; };
    float best = -INFINITE, total = 0.0f;
    for (int i = threadIdx.x % 32; i < count; i += 32) best = fmaxf(best, problem.partial_sums[at(i)].x);
    best = warp_max(best);
    auto weight_of = [&](int i) { return exp2f(problem.partial_sums[at(i)].x - best); };
    for (int i = threadIdx.x % 32; i < count; i += 32) total += problem.partial_sums[at(i)].y * weight_of(i);
    float share = share_of(problem, row.head, best, warp_sum(total));
    if (problem.value_dim % 4 == 0) {
        merge_columns<4>(problem, output_of(problem, row), share, count, at, weight_of);
    } else {
        merge_columns<1>(problem, output_of(problem, row), share, count, at, weight_of);
    }
}

// Merges what the blocks of a kernel with this many rows and keys found, whose keys begin at such multiples; a block per
// tile, a warp per row.
__device__ void merge_tile(const Problem& problem, int rows, int keys_at_once, int keys_least, int multiple = 1) {
    Tile tile;
    if (!find_tile(problem, rows, tile)) return;
    begin_at_multiple(tile, multiple);
    take_split(problem, tile, 0, keys_at_once, keys_least);
    if (tile.splits == 1) return;
    int64_t first = first_partial(problem);
    for (int index = threadIdx.x / 32; index < rows; index += blockDim.x / 32) {
        Row row = row_of(tile, index);
        if (row.valid) merge_row(problem, row, rows, index, tile.splits, [=](int split) { return first + split; });
    }
}

#endif  // SHARDWIRE_ATTENTION_CUH

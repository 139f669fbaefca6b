// Contexts dealt out evenly to a fixed number of blocks, for sequences of few queries.
//
// All contexts of the batch are cut into units of 64 positions, and the units dealt out evenly to as many blocks as the
// GPU holds: whatever lengths a batch mixes, blocks end together, and how many there are depends on the GPU alone. A
// block's share begins and ends anywhere; what belongs to a context that it shares with others is merged afterwards.

#ifndef SHARDWIRE_ATTENTION_SHARES_CUH
#define SHARDWIRE_ATTENTION_SHARES_CUH

#include "attention.cuh"

#define UNIT 64
// Units of a block at least: fewer would be read in the time of so many, which are on their way at once.
#define UNITS_LEAST 2

// Units of one tile of heads of a sequence; all of them have as many.
__device__ __forceinline__ int units_of(const Problem& problem, int sequence) {
    int count = int(problem.query_starts[sequence + 1] - problem.query_starts[sequence]);
    if (count < problem.queries_least || count > problem.queries_most) return 0;
    int end = problem.context_lengths[sequence];
    return (end - first_seen(problem, end - count) + UNIT - 1) / UNIT;
}

// Units lie in a row: by sequence, by tile of heads, by position.
struct Shares {
    int tiles;  // of heads
    int each;   // units of a block
    int total;
    // Of this thread: its sequences, and the units of one tile of heads that are before them.
    int first, end;
    int before;

    // A block's partial results: one where its share begins within a context, and one where it ends within another.
    __device__ __forceinline__ int64_t partial_of(int block, int context_start) const {
        return 2 * int64_t(block) + (block * each >= context_start ? 0 : 1);
    }
};

// How the units of tiles of `rows` rows are dealt out. All threads of the block come here.
template <int rows, int threads>
__device__ __forceinline__ Shares deal_units(const Problem& problem) {
    // Aligned, or compilers read what lies before it along with it, and tools see a race.
    alignas(16) __shared__ int warp_units[threads / 32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Shares shares;
    int own = (problem.sequences + threads - 1) / threads;
    shares.first = min(int(threadIdx.x) * own, problem.sequences);
    shares.end = min(shares.first + own, problem.sequences);
    int units = 0;
    for (int sequence = shares.first; sequence < shares.end; sequence++) units += units_of(problem, sequence);
    int running = units;
    for (int distance = 1; distance < 32; distance *= 2) {
        int lower = __shfl_up_sync(ALL_LANES, running, distance);
        if (lane >= distance) running += lower;
    }
    if (lane == 31) warp_units[warp] = running;
    __syncthreads();
    int total = 0;
    shares.before = running - units;
    for (int other = 0; other < threads / 32; other++) {
        if (other < warp) shares.before += warp_units[other];
        total += warp_units[other];
    }
    shares.tiles = problem.kv_heads * head_tiles(problem, rows);
    shares.total = total * shares.tiles;
    shares.each = max((shares.total + problem.splits - 1) / problem.splits, UNITS_LEAST);
    return shares;
}

// Calls `attend(tile, is_whole, partial)` for each context of the block's share, or what of it is in the share: the tile's
// keys are those, and unless they are all of the context's, what comes out is partial result `partial`. All threads of the
// block come here.
template <int rows, int threads, class Attend>
__device__ __forceinline__ void for_share(const Problem& problem, Attend attend) {
    __shared__ int found[2];
    Shares shares = deal_units<rows, threads>(problem);
    int unit = blockIdx.x * shares.each, share_end = min(unit + shares.each, shares.total);
    if (unit >= share_end) return;
    for (int sequence = shares.first, before = shares.before; sequence < shares.end; sequence++) {
        int units = units_of(problem, sequence);
        if (before * shares.tiles <= unit && unit < (before + units) * shares.tiles) {
            found[0] = sequence;
            found[1] = before * shares.tiles;
        }
        before += units;
    }
    __syncthreads();
    int sequence = found[0], start = found[1];
    while (unit < share_end) {
        int units = units_of(problem, sequence);
        if (start + units * shares.tiles <= unit) {
            start += units * shares.tiles;
            sequence++;
            continue;
        }
        int index = (unit - start) / units, context_start = start + index * units;
        int end = min(share_end, context_start + units);
        Tile tile;
        if (find_rows(problem, rows, sequence, 0, index, tile)) {
            int context_begin = tile.begin;
            tile.begin = context_begin + (unit - context_start) * UNIT;
            tile.end = min(tile.end, context_begin + (end - context_start) * UNIT);
            attend(tile, end - unit == units, shares.partial_of(blockIdx.x, context_start));
        }
        unit = end;
    }
}

// Merges what blocks found of contexts that they share; blocks: sequences, tiles of heads, and as many as are to share a
// tile's rows.
template <int rows, int threads>
__device__ __forceinline__ void merge_shares(const Problem& problem) {
    __shared__ int start;
    Shares shares = deal_units<rows, threads>(problem);
    int sequence = blockIdx.x, units = units_of(problem, sequence);
    for (int other = shares.first, before = shares.before; other < shares.end; other++) {
        if (other == sequence) start = before * shares.tiles;
        before += units_of(problem, other);
    }
    __syncthreads();
    if (units == 0) return;
    int context_start = start + blockIdx.y * units;
    int first_block = context_start / shares.each, last_block = (context_start + units - 1) / shares.each;
    Tile tile;
    if (first_block == last_block || !find_rows(problem, rows, sequence, 0, blockIdx.y, tile)) return;
    int warps = threads / 32 * gridDim.z;
    for (int index = blockIdx.z * threads / 32 + threadIdx.x / 32; index < rows; index += warps) {
        Row row = row_of(tile, index);
        if (!row.valid) continue;
        merge_row(problem, row, rows, index, last_block - first_block + 1,
                  [&](int i) { return shares.partial_of(first_block + i, context_start); });
    }
}

#endif  // SHARDWIRE_ATTENTION_SHARES_CUH

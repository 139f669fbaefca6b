// Linear layers of 17 to 255 rows with quantized weights, by products of warpgroups: GPUs of compute capability 9.0. All
// else is for matmul/cuda.cu.
//
// Each weight is decoded once, in registers, where a warpgroup's product has its left factor; rows of x are the right
// one: yᵀ = W · xᵀ. A block takes 256 outputs, 64 for each of four warpgroups, and 32, 64 or 128 rows. One run of 32
// columns is decoded while the run before it is multiplied: products need nothing of a thread while they run.
//
// Two threads of a warpgroup of their own fetch, each a ring of parts: the weights' bytes as they are stored, and rows of
// x, 64 columns at a time. Both come in boxes (TMA). Outputs are taken in pairs, neighbours or a gate and its up; the weights
// of all first ones are a matrix, and those of all second ones another.
//
// Weights are rounded to bf16, as tiles of many rows have them (product.cuh). A scale is the sum of two bf16, so that
// quant · scale costs two instructions for each two weights and is rounded but once, to 2⁻⁹; the product with the lesser
// part is rounded to 2⁻⁹ of 2⁻⁹. Where there is an offset, two roundings would show (weights of a small scale are all
// alike, and their errors, too): there f32 multiplies.
//
// Few outputs make few blocks: then several share a tile's columns, as a cluster. Each adds up some of the tile's sums out of
// the shared memory of all, in order.
//
// The floors, 8192 → 28672 on an H100: 125 MB of WINT4 are 43 µs at 2.9 TB/s, 242 MB of WINT8 or FP8 83 µs, 132 MB of
// Q4_K 46 µs; 128 rows are 60 GFLOP, 75 µs at 800 TFLOP/s, so that below 74 rows of WINT4 memory decides. Of x each block
// reads all columns: for 128 rows 2 MB, 235 MB for 112 blocks, 43 µs of the L2 cache's 5.5 TB/s; half of that with 64. A
// multiprocessor gets 12.5 bytes in a cycle, in which its lanes have 128 instructions: 5.4 for a weight in WINT4, 10.5 in
// WINT8 and FP8, 5.8 in Q4_K; the loop takes 4.8, 5.9, 6.4 and 7.8. Tensor cores take 16 weights in a cycle with 128 rows:
// 8 instructions for each.
//
// variants: FORMAT q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4 tq2_0 wint8 wint4 wint4g32 f8_e4m3
// architectures: sm_90a

#define BLOCKS_AT_LEAST 1
#include "clusters.cuh"
#include "device.cuh"
#include "formats.cuh"
#include "product.cuh"
#include "results.cuh"
#include "tensor_map.cuh"
#include "warpgroups.cuh"

// The first warpgroup fetches, the others compute.
#define FETCHING_THREADS 128
#define WARPS 16
// Pairs of outputs of a warp, whose rows g are first ones and rows g + 8 second ones.
#define WARP_PAIRS 8
#define PAIRS 128
#define THREADS 640
#define COMPUTING_THREADS 512
// Together no more than a block is given: 640 × 96.
#define FETCHING_REGISTERS 32
#define COMPUTING_REGISTERS 112

static_assert(PAIRS == WARPS * WARP_PAIRS && COMPUTING_THREADS == 32 * WARPS &&
                  THREADS == FETCHING_THREADS + COMPUTING_THREADS, "warps of a block");

// Columns of a part of x, as far as swizzled rows reach.
constexpr int X_COLUMNS = 64;
constexpr int X_RUNS = X_COLUMNS / RUN;

// Columns of a part of the weights: as many as a step of `skinny_product` has.
constexpr int COLUMNS = skinny_columns(FORMAT);
// Of these the text of the kernel has so many runs, and goes through them once or twice.
constexpr int RUNS = 4;
constexpr int TURN_COLUMNS = RUNS * RUN;
constexpr int X_PARTS = COLUMNS / X_COLUMNS;
using Bytes = Staged<FORMAT, COLUMNS>;
// From a row to the next: so that what eight rows' lanes read at once lies in different banks.
constexpr int PITCH = 16 * (Bytes::CHUNKS | 1);
constexpr int HALF_BYTES = PAIRS * PITCH;
constexpr int PART_BYTES = 2 * HALF_BYTES;

// Parts of the rings: as many as a block has room for beside what it declares.
constexpr int ROOM = 225 << 10;
constexpr int STAGES = PITCH <= 176 ? 3 : 2;
constexpr int X_STAGES_MOST = 8;

template <int ROWS>
struct Inputs {
    static constexpr int BYTES = ROWS * SWIZZLED_ROW;
    static constexpr int FIT = (ROOM - STAGES * PART_BYTES) / BYTES;
    static constexpr int STAGES_OF_X = FIT < X_STAGES_MOST ? FIT : X_STAGES_MOST;
    static_assert(STAGES_OF_X > X_PARTS, "the next part's first is fetched while a part is multiplied");
    // In the end sums lie where rings were, rows so many f32 apart that lanes write to different banks.
    static constexpr int SUMS_STRIDE = 2 * PAIRS + 8;
    static_assert(ROWS * SUMS_STRIDE * int(sizeof(float)) <= STAGES_OF_X * BYTES + STAGES * PART_BYTES, "sums fit");
};

// As `Boxes` in matmul/cuda/middle.rs: x, and the first and the second rows of all pairs as bytes.
struct Boxes {
    TensorMap x;
    TensorMap firsts;
    TensorMap seconds;
};

// A block's shared memory.
struct Room {
    uint8_t* x;        // [STAGES_OF_X][ROWS][64] elements
    uint8_t* weights;  // [STAGES][2][PAIRS][PITCH] bytes
    uint64_t* x_ready;
    uint64_t* x_free;
    uint64_t* weights_ready;
    uint64_t* weights_free;
    uint64_t* together;  // where all computing warps meet
};

// A place in a ring of so many, and how often the ring was gone round, modulo 2.
template <int STAGES>
struct Place {
    int stage = 0, parity = 0;

    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Of a warp: what its threads did is done. The barrier counts warps.
__device__ __forceinline__ void warp_arrive(uint64_t* barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// What one thread does, while the others compute: the weights of steps `begin` to `end`.
__device__ __forceinline__ void fetch_weights(const Boxes& boxes, const Room& room, int begin, int end) {
    int first_pair = blockIdx.y * PAIRS;
    Place<STAGES> place;
    for (int step = begin; step < end; step++) {
        uint64_t* ready = room.weights_ready + place.stage;
        uint8_t* to = room.weights + place.stage * PART_BYTES;
        if (step - begin >= STAGES) barrier_wait(room.weights_free + place.stage, place.parity ^ 1);
        barrier_arrive_expecting(ready, PART_BYTES);
        copy_box(to, boxes.firsts, Bytes::begin(step), first_pair, ready);
        copy_box(to + HALF_BYTES, boxes.seconds, Bytes::begin(step), first_pair, ready);
        place.next();
    }
}

// What another does: their rows of x.
template <int ROWS>
__device__ __forceinline__ void fetch_inputs(const Boxes& boxes, const Room& room, int begin, int end) {
    using X = Inputs<ROWS>;
    int first_row = blockIdx.x * ROWS;
    Place<X::STAGES_OF_X> place;
    for (int part = 0; part < (end - begin) * X_PARTS; part++) {
        uint64_t* ready = room.x_ready + place.stage;
        if (part >= X::STAGES_OF_X) barrier_wait(room.x_free + place.stage, place.parity ^ 1);
        barrier_arrive_expecting(ready, X::BYTES);
        copy_box(room.x + place.stage * X::BYTES, boxes.x, begin * COLUMNS + part * X_COLUMNS, first_row, ready);
        place.next();
    }
}

// Whether a turn's columns are one group; else each of the four lanes that have a row reads the scales of one of its four
// runs, for all of them.
constexpr bool ONE_GROUP = group_columns(FORMAT) >= TURN_COLUMNS;
// Of a run.
constexpr int GROUPS = group_columns(FORMAT) < RUN ? 2 : 1;

// A number as the sum of two bf16, the greater in the lower half.
__device__ __forceinline__ uint32_t split_bf16(float number) {
    uint32_t greater = pack_bf16(number, number);
    return __byte_perm(greater, pack_bf16(number - low_bf16(greater), 0.0f), 0x5410);
}

__device__ __forceinline__ uint32_t greater_pair(uint32_t split) { return __byte_perm(split, 0, 0x1010); }
__device__ __forceinline__ uint32_t lesser_pair(uint32_t split) { return __byte_perm(split, 0, 0x3232); }

// Where the block of a turn's run lies, and which of the block's runs it is.
struct RunPlace {
    int bytes, in_block;

    __device__ __forceinline__ RunPlace(int turn, int run)
        : bytes(block_columns(FORMAT) > TURN_COLUMNS ? 0 : RUN * run / block_columns(FORMAT) * block_bytes(FORMAT)),
          in_block(block_columns(FORMAT) > TURN_COLUMNS ? turn * RUNS + run : RUN * run % block_columns(FORMAT) / RUN) {
    }
};

// Scales of a row's groups, split; and where there are offsets, both in f32.
struct Scales {
    uint32_t split[GROUPS];
    float scales[GROUPS], offsets[GROUPS];
    int zero;  // of WINT4

    __device__ __forceinline__ void read(const uint8_t* row, int turn, int lane) {
        RunPlace place(turn, ONE_GROUP ? 0 : lane);
        float own_scales[2], own_offsets[2];
        Address block(row + place.bytes, ONE_GROUP ? 0 : -1);
        Stored<FORMAT>::scales(block, place.in_block, own_scales, own_offsets);
        if (FORMAT == WINT4) zero = Stored<WINT4>::zero(block);
        for (int i = 0; i < GROUPS; i++) {
            split[i] = split_bf16(own_scales[i]);
            scales[i] = own_scales[i], offsets[i] = own_offsets[i];
        }
    }

    // Those of a run.
    __device__ __forceinline__ Scales of(int run) const {
        if (ONE_GROUP) return *this;
        Scales there;
        int from = int(threadIdx.x) % 32 / 4 * 4 + run;
        for (int i = 0; i < GROUPS; i++) {
            if (has_offsets(FORMAT)) {
                there.scales[i] = __shfl_sync(ALL_LANES, scales[i], from);
                there.offsets[i] = __shfl_sync(ALL_LANES, offsets[i], from);
            } else {
                there.split[i] = __shfl_sync(ALL_LANES, split[i], from);
            }
        }
        return there;
    }

    // Weights of two quants.
    __device__ __forceinline__ uint32_t weigh(uint32_t quants, int half) const {
        int group = half % GROUPS;
        if (has_offsets(FORMAT)) {
            return pack_bf16(__fmaf_rn(low_bf16(quants), scales[group], offsets[group]),
                             __fmaf_rn(high_bf16(quants), scales[group], offsets[group]));
        }
        return multiply_add_pair(quants, greater_pair(split[group]), multiply_pair(quants, lesser_pair(split[group])));
    }
};

// One row's weights of a run, as pairs of bf16 in the order of fragments.
__device__ __forceinline__ void decode_row(const uint8_t* row, int turn, int run, int lane, const Scales& of_turn,
                                           uint32_t weights[4]) {
    RunPlace place(turn, run);
    Address block(row + place.bytes, Bytes::GRAIN % 4 == 0 ? place.bytes % 4 : -1);
    Scales scales = of_turn.of(run);
    uint32_t quants[4];
    if (FORMAT == WINT4) {
        Stored<WINT4>::quants_above(block, place.in_block, Share(lane, true), scales.zero, quants);
    } else {
        Stored<FORMAT>::quants(block, place.in_block, Share(lane, true), quants);
    }
    for (int i = 0; i < 4; i++) weights[i] = scales.weigh(quants[i], i / 2);
}

// Both rows of a lane's pair: two fragments, each of 16 columns.
__device__ __forceinline__ void decode_run(const uint8_t* first_row, int turn, int run, int lane,
                                           const Scales (&scales)[2], uint32_t (&factors)[8]) {
    uint32_t first[4], second[4];
    decode_row(first_row, turn, run, lane, scales[0], first);
    decode_row(first_row + HALF_BYTES, turn, run, lane, scales[1], second);
#pragma unroll
    for (int i = 0; i < 4; i++) factors[2 * i] = first[i], factors[2 * i + 1] = second[i];
}

// Of the block's pairs the one whose rows a computing lane decodes.
__device__ __forceinline__ int own_pair() {
    return (int(threadIdx.x) - FETCHING_THREADS) / 32 * WARP_PAIRS + int(threadIdx.x) % 32 / 4;
}

// The sums of a warp's pairs with all rows, as products leave them: of row 8n + 2 · (lane mod 4) + i those of the first
// output at 4n + i, of the second at 4n + 2 + i.
template <int ROWS>
__device__ __forceinline__ void multiply_all(const Room& room, int begin, int end, float (&sums)[ROWS / 2]) {
    using X = Inputs<ROWS>;
    int lane = threadIdx.x % 32, own_row = own_pair() * PITCH;
    Place<STAGES> place;
    Place<X::STAGES_OF_X> x_place;
    uint64_t inputs = swizzled_tile(room.x, 0);
    // The part of x before; none.
    int x_before = -1;
    // Those of a run while the run before it is multiplied.
    uint32_t factors[2][8];
    Scales scales[2];
#pragma unroll 1
    for (int step = begin; step < end; step++) {
        barrier_wait(room.weights_ready + place.stage, place.parity);
        const uint8_t* row = room.weights + place.stage * PART_BYTES + own_row + Bytes::skipped(step);
#pragma unroll 1
        for (int turn = 0; turn < COLUMNS / TURN_COLUMNS; turn++) {
            scales[0].read(row, turn, lane % 4);
            scales[1].read(row + HALF_BYTES, turn, lane % 4);
#pragma unroll
            for (int run = 0; run < RUNS; run++) {
                uint32_t(&own)[8] = factors[run % 2];
                decode_run(row, turn, run, lane % 4, scales, own);
                if (run % X_RUNS == 0) barrier_wait(room.x_ready + x_place.stage, x_place.parity);
                uint64_t x = further_on(inputs, x_place.stage * X::BYTES + run % X_RUNS * 64);
                warpgroup_fence();
                warpgroup_add_bf16(sums, own, x, run > 0 || x_before >= 0);
                warpgroup_add_bf16(sums, own + 4, further_on(x, 32), true);
                warpgroup_commit();
                // The run before this one is multiplied.
                warpgroup_wait<1>();
                if (run % X_RUNS == 0) {
                    if (x_before >= 0) warp_arrive(room.x_free + x_before);
                } else {
                    x_before = x_place.stage;
                    x_place.next();
                }
            }
            if (block_columns(FORMAT) <= TURN_COLUMNS) row += bytes_of(FORMAT, TURN_COLUMNS);
        }
        warp_arrive(room.weights_free + place.stage);
        place.next();
    }
    warpgroup_wait<0>(sums);
}

// Of two neighbouring outputs the sums of all blocks that share the tile.
__device__ __forceinline__ float2 add_shares(const float* own) {
    float2 shares[CLUSTER_BLOCKS_MAX];
#pragma unroll
    for (int share = 0; share < CLUSTER_BLOCKS_MAX; share++) {
        if (share < int(gridDim.z)) shares[share] = load_2_of_block(own, share);
    }
    float2 sum = shares[0];
#pragma unroll
    for (int share = 1; share < CLUSTER_BLOCKS_MAX; share++) {
        if (share < int(gridDim.z)) sum.x += shares[share].x, sum.y += shares[share].y;
    }
    return sum;
}

// Sums become results. They go by way of shared memory, so that neighbouring threads have neighbouring outputs, and blocks
// that share a tile have those of the others: each takes its part of the tile.
template <int ROWS>
__device__ __forceinline__ void hand_out(const float (&sums)[ROWS / 2], const Room& room, const OutputColumns& output,
                                         int rows) {
    constexpr int STRIDE = Inputs<ROWS>::SUMS_STRIDE;
    float* tile = reinterpret_cast<float*>(room.x);
    // All are done with the rings.
    warp_arrive(room.together);
    barrier_wait(room.together, 0);
    float* to = tile + threadIdx.x % 4 * 2 * STRIDE + 2 * own_pair();
#pragma unroll
    for (int n = 0; n < ROWS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) store_2(to + (8 * n + i) * STRIDE, sums[4 * n + i], sums[4 * n + 2 + i]);
    }
    // Not before: blocks of the kernel behind this one would crowd where this one's happen to end first.
    let_next_begin();
    cluster_sync();
    int first_row = blockIdx.x * ROWS, first_output = blockIdx.y * 2 * PAIRS, own_rows = min(rows - first_row, ROWS);
    int first = int(blockIdx.z) * COMPUTING_THREADS + int(threadIdx.x) - FETCHING_THREADS;
#pragma unroll 1
    for (int index = first; index < own_rows * PAIRS; index += int(gridDim.z) * COMPUTING_THREADS) {
        int row = index / PAIRS, at = index % PAIRS * 2, column = first_output + at;
        if (column >= output.outputs) continue;
        float2 pair = add_shares(tile + row * STRIDE + at);
        output(first_row + row, column, pair.x, pair.y);
    }
    // Others may still read this block's.
    cluster_sync();
}

// Blocks: rows in x, pairs of outputs in y, shares of `steps_each` of a tile's steps in z.
template <int ROWS>
__device__ __forceinline__ void middle(OutputColumns output, int rows, int steps, int steps_each, const Boxes& boxes) {
    using X = Inputs<ROWS>;
    DYNAMIC_SHARED(uint8_t, shared);
    __shared__ uint64_t x_ready[X_STAGES_MOST];
    __shared__ uint64_t x_free[X_STAGES_MOST];
    __shared__ uint64_t weights_ready[STAGES];
    __shared__ uint64_t weights_free[STAGES];
    __shared__ uint64_t together;
    Room room;
    room.x = shared + (SWIZZLED_ALIGNMENT - shared_address(shared) % SWIZZLED_ALIGNMENT) % SWIZZLED_ALIGNMENT;
    room.weights = room.x + X::STAGES_OF_X * X::BYTES;
    room.x_ready = x_ready;
    room.x_free = x_free;
    room.weights_ready = weights_ready;
    room.weights_free = weights_free;
    room.together = &together;
    if (threadIdx.x == 0) {
        prefetch_tensor_map(boxes.x);
        prefetch_tensor_map(boxes.firsts);
        prefetch_tensor_map(boxes.seconds);
        for (int at = 0; at < X::STAGES_OF_X; at++) {
            barrier_init(x_ready + at, 1);
            barrier_init(x_free + at, WARPS);
        }
        for (int at = 0; at < STAGES; at++) {
            barrier_init(weights_ready + at, 1);
            barrier_init(weights_free + at, WARPS);
        }
        barrier_init(&together, WARPS);
        fence_async_proxy();
    }
    __syncthreads();
    int begin = blockIdx.z * steps_each, end = min(begin + steps_each, steps);
    if (threadIdx.x < FETCHING_THREADS) {
        give_registers<FETCHING_REGISTERS>();
        if (threadIdx.x == 0) fetch_weights(boxes, room, begin, end);
        // Weights were there before; rows of x may be what the kernel before this one writes.
        wait_for_last();
        if (threadIdx.x == 32) fetch_inputs<ROWS>(boxes, room, begin, end);
    } else {
        take_registers<COMPUTING_REGISTERS>();
        // Results lie where the kernel before this one may still read.
        wait_for_last();
        float sums[ROWS / 2];
        multiply_all<ROWS>(room, begin, end, sums);
        hand_out<ROWS>(sums, room, output, rows);
    }
}

// y [rows, …], rows `y_stride` apart, from x and a weight of `outputs` rows, an even number, as boxes have them; a bias per
// output, or null. Results are as in matmul/cuda.cu.
#define PARAMETERS                                                                                                     \
    void *y, const float *bias, int rows, int outputs, int steps, int steps_each, int y_stride,       \
        int results, int activation, float limit, float alpha, const __grid_constant__ Boxes boxes
#define OUTPUT OutputColumns{y, bias, y_stride, 0, outputs, results, Gate{activation, limit, alpha}}
KERNEL(middle_32, THREADS)(PARAMETERS) { middle<32>(OUTPUT, rows, steps, steps_each, boxes); }
KERNEL(middle_64, THREADS)(PARAMETERS) { middle<64>(OUTPUT, rows, steps, steps_each, boxes); }
KERNEL(middle_128, THREADS)(PARAMETERS) { middle<128>(OUTPUT, rows, steps, steps_each, boxes); }

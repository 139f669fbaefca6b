// Products `x · Wᵀ` as parts of kernels: few rows of x (`skinny_product`), or many (`tiled_product`). Who calls them
// says by three functors where things are, and what becomes of the sums:
//
//     const uint8_t* weight(int output)   the stored row of an output below `outputs`
//     const act* input(int row)           a row of x below `rows`, of which there is one at least
//     void output(int row, int column, float first, float second)
//                                         the sums of outputs `column` (even) and `column + 1`, of which the second is for
//                                         nothing where it is `outputs`; once for each row below `rows` and each pair
//
// Rows of a weight begin at multiples of 16 bytes and are filled up to one with zeros. Rows of x may begin anywhere in
// the plain formats, best at a multiple of 16 bytes; in the quantized ones at a multiple of 16.
//
// With bf16 activations, tensor cores multiply and sum in f32; with f32 ones everything is f32.
//
// All threads of a block call them together, with the block's dynamic shared memory. Who calls a second time in one
// kernel puts a `__syncthreads()` between.

#ifndef SHARDWIRE_PRODUCT_CUH
#define SHARDWIRE_PRODUCT_CUH

#include "device.cuh"
#include "formats.cuh"

__device__ __forceinline__ constexpr int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// Bytes of a stored row that may be read.
template <Format format>
__device__ __forceinline__ int row_bytes(int inputs) {
    return (inputs / block_columns(format) * block_bytes(format) + 15) & ~15;
}

// The bytes of some columns of a row, staged in shared memory: the 16-byte words that hold `columns` columns from a
// multiple of so many on, wherever blocks begin in them.
template <Format format, int columns>
struct Staged {
    static_assert(columns % block_columns(format) == 0, "whole blocks");
    static constexpr int BYTES = bytes_of(format, columns);
    // Blocks begin at multiples of so many bytes, so that at worst the rest of 16 lies before the first.
    static constexpr int GRAIN = (BYTES & -BYTES) < 16 ? BYTES & -BYTES : 16;
    static constexpr int CHUNKS = (16 - GRAIN + BYTES + 15) / 16;

    // Where the words of step `step` begin in a row …
    static __device__ __forceinline__ int begin(int step) { return step * BYTES & ~15; }
    // … and where in them its first block does.
    static __device__ __forceinline__ int skipped(int step) { return GRAIN == 16 ? 0 : step * BYTES & 15; }
};

// ---- few rows ----
//
// A warp takes 16 outputs and some of the inputs. It streams their bytes through a ring of its own in shared memory, so
// that nothing waits for another warp before the end; decodes in registers, in the very layout of tensor-core
// fragments; and multiplies quants by the rows of x, at most 8, 16 or 32, which come from the L1 cache. Scales are applied
// to the sums of their group. So every weight is as exact as it is stored, and a row's result depends on no other row,
// nor on how many there are.
//
// The warps of a block are `tiles` neighbouring tiles of outputs times as many slices of the inputs as remain: slice s
// takes steps s, s + slices, … The sums of a tile's slices are added in their order.
//
// The floor is the weight's bytes: 4096 × 4096 of Q4_0 are 9.4 MB, 3.3 µs of an H100's memory (at 85 % of 3.35 TB/s);
// of bf16 33.6 MB, 11.8 µs. At that rate a multiprocessor gets 12.3 bytes in a cycle, in which its lanes have 128
// instructions. So a weight has 5.8 of them in Q4_0, 5.5 in WINT4, 10.7 in WINT8, 21 in bf16; the loop takes 3.2, 2.8,
// 3.9 and 2.8 (as compiled for sm_90a, for up to 8 rows; Q4_K 4.5 of 5.8, MXFP4 4.6 of 5.5).

constexpr int SKINNY_STAGES = 3;
constexpr int TILE_OUTPUTS = 16;

// Columns of a step: about 128 to 256 bytes of a row.
constexpr int skinny_columns(Format format) {
    if (format == F32) return 32;
    if (format == F16 || format == BF16) return 64;
    return format == Q8_0 || format == WINT8 || format == F8_E4M3 ? 128 : 256;
}

template <Format format>
struct Skinny : Staged<format, skinny_columns(format)> {
    using Bytes = Staged<format, skinny_columns(format)>;
    static constexpr int COLUMNS = skinny_columns(format);
    static constexpr int RUNS = COLUMNS / RUN;
    // From a row to the next, in 16-byte words: so that what eight rows' lanes read at once lies in different banks.
    // They read 4 bytes each, of which four lanes' make a word; but 16 of F16 and BF16, two rows at a time.
    static constexpr int WORDS = is_plain(format) && format != F32 ? Bytes::CHUNKS + 4 : Bytes::CHUNKS | 1;
    static constexpr int SLOT = 16 * WORDS;
    static constexpr int STAGE = TILE_OUTPUTS * SLOT;
    static constexpr int RING = SKINNY_STAGES * STAGE;
};

// The output of row `row` of a tile: that of rows g and g + 8, which a lane has both, are neighbours.
__device__ __forceinline__ int tile_output(int row) { return 2 * (row % 8) + row / 8; }

// The 16-byte words of each step that a lane copies: neighbouring lanes' are neighbours.
template <Format format>
struct Copies {
    using S = Skinny<format>;
    static constexpr int ALL = TILE_OUTPUTS * S::CHUNKS, EACH = (ALL + 31) / 32;
    // Of each word where it is in the row, and how many bytes are left from there on.
    const uint8_t* from[EACH];
    int left[EACH];

    template <class Weight>
    __device__ __forceinline__ Copies(Weight weight, int outputs, int first, int row_bytes) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int index = threadIdx.x % 32 + 32 * i, row = index / S::CHUNKS, at = index % S::CHUNKS * 16;
            // Behind the last output its row once more: nobody asks for what becomes of it.
            from[i] = weight(min(first + tile_output(row % TILE_OUTPUTS), outputs - 1)) + at;
            left[i] = row_bytes - at;
        }
    }

    // Sets those of a step on their way.
    __device__ __forceinline__ void start(uint8_t* stage, int step) const {
        int begin = S::begin(step);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int index = threadIdx.x % 32 + 32 * i;
            if (ALL % 32 != 0 && index >= ALL) break;
            int to = index / S::CHUNKS * S::SLOT + index % S::CHUNKS * 16;
            copy_async_16(stage + to, from[i] + begin, begin < left[i]);
        }
    }
};

#ifdef ACTIVATION_BF16

// The share of a row of x that belongs to a weight's: pairs in the same order. Zeros behind `inputs` in the plain
// formats; in the others nothing lies there.
template <Format format>
__device__ __forceinline__ void input_share(const bf16* row, int inputs, int column, int share, uint32_t pairs[4]) {
    if constexpr (is_plain(format)) {
        column += first_quad<format>(share);
        if (column + 8 <= inputs && reinterpret_cast<uint64_t>(row) % 16 == 0) {
            uint4 words = *reinterpret_cast<const uint4*>(row + column);
            pairs[0] = words.x, pairs[1] = words.y, pairs[2] = words.z, pairs[3] = words.w;
        } else {
            for (int i = 0; i < 4; i++) pairs[i] = 0;
            for (int i = 0; i < 8; i++) {
                if (column + i < inputs) pairs[i / 2] |= uint32_t(row[column + i].bits) << (i % 2 * 16);
            }
        }
    } else {
        uint2 low = *reinterpret_cast<const uint2*>(row + column + first_quad<format>(share));
        uint2 high = *reinterpret_cast<const uint2*>(row + column + second_quad<format>(share));
        pairs[0] = low.x, pairs[1] = low.y, pairs[2] = high.x, pairs[3] = high.y;
    }
}

// How many bf16 numbers a plain weight is the sum of.
constexpr int plain_parts(Format format) { return format == F32 ? 3 : format == F16 ? 2 : 1; }

// Eight weights of a plain row as such sums, exactly: each takes the highest 8 bits of what is left.
template <Format format>
__device__ __forceinline__ void plain_pairs(const uint8_t* at, uint32_t pairs[plain_parts(format)][4]) {
    if constexpr (format == BF16) {
        uint4 words = *reinterpret_cast<const uint4*>(at);
        pairs[0][0] = words.x, pairs[0][1] = words.y, pairs[0][2] = words.z, pairs[0][3] = words.w;
    } else {
        float values[8];
        plain_8<format>(at, 8, 0, values);
        for (int part = 0; part < plain_parts(format); part++) {
            for (int i = 0; i < 4; i++) {
                uint32_t low = __float_as_uint(values[2 * i]), high = __float_as_uint(values[2 * i + 1]);
                pairs[part][i] = __byte_perm(low, high, 0x7632);
                values[2 * i] -= __uint_as_float(low & 0xffff0000u);
                values[2 * i + 1] -= __uint_as_float(high & 0xffff0000u);
            }
        }
    }
}

// Adds the products of `RUNS` runs to `sums`: of each eight rows of x, the sums of two rows and two outputs. The runs
// are whole groups, and begin with a block or with half of one that has 256 columns; `FIRST` is the first.
template <Format format, int RUNS, int FIRST, int EIGHTS>
__device__ __forceinline__ void multiply_runs(const uint8_t* low_row, const uint8_t* high_row, int share,
                                              const uint32_t x[RUNS][EIGHTS][4], float sums[EIGHTS][4]) {
    using S = Skinny<format>;
    if constexpr (is_plain(format)) {
#pragma unroll
        for (int run = 0; run < RUNS; run++) {
            constexpr int PARTS = plain_parts(format);
            uint32_t low[PARTS][4], high[PARTS][4];
            int at = (RUN * (FIRST + run) + first_quad<format>(share)) * block_bytes(format);
            plain_pairs<format>(low_row + at, low);
            plain_pairs<format>(high_row + at, high);
            for (int part = 0; part < PARTS; part++) {
                for (int half = 0; half < 2; half++) {
                    uint32_t a[4] = {low[part][2 * half], high[part][2 * half], low[part][2 * half + 1],
                                     high[part][2 * half + 1]};
                    for (int n = 0; n < EIGHTS; n++) mma_m16n8k16_bf16(sums[n], a, x[run][n] + 2 * half);
                }
            }
        }
    } else {
        constexpr int BLOCK = block_columns(format), GROUP = group_columns(format);
        // Of the group that is being summed: quants times x, and x alone, in each row of the fragment the same.
        float products[EIGHTS][4], inputs[EIGHTS][4];
        constexpr uint32_t ONES[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};
#pragma unroll
        for (int run = 0; run < RUNS; run++) {
            int column = RUN * (FIRST + run), in_block = column % BLOCK / RUN;
            int at = column / BLOCK * block_bytes(format);
            Address low_block(low_row + at, S::GRAIN % 4 == 0 ? at % 4 : -1);
            Address high_block(high_row + at, S::GRAIN % 4 == 0 ? at % 4 : -1);
            uint32_t low[4], high[4];
            float low_scales[2], high_scales[2], low_offsets[2], high_offsets[2];
            Stored<format>::quants(low_block, in_block, share, low);
            Stored<format>::quants(high_block, in_block, share, high);
            Stored<format>::scales(low_block, in_block, low_scales, low_offsets);
            Stored<format>::scales(high_block, in_block, high_scales, high_offsets);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int sixteen = RUN * run + 16 * half;
                uint32_t a[4] = {low[2 * half], high[2 * half], low[2 * half + 1], high[2 * half + 1]};
#pragma unroll
                for (int n = 0; n < EIGHTS; n++) {
                    if (sixteen % GROUP == 0) {
                        for (int i = 0; i < 4; i++) products[n][i] = inputs[n][i] = 0.0f;
                    }
                    mma_m16n8k16_bf16(products[n], a, x[run][n] + 2 * half);
                    if constexpr (has_offsets(format)) mma_m16n8k16_bf16(inputs[n], ONES, x[run][n] + 2 * half);
                    if ((sixteen + 16) % GROUP != 0) continue;
                    for (int i = 0; i < 2; i++) {
                        sums[n][i] = __fmaf_rn(low_scales[half], products[n][i], sums[n][i]);
                        sums[n][2 + i] = __fmaf_rn(high_scales[half], products[n][2 + i], sums[n][2 + i]);
                        if constexpr (has_offsets(format)) {
                            sums[n][i] = __fmaf_rn(low_offsets[half], inputs[n][i], sums[n][i]);
                            sums[n][2 + i] = __fmaf_rn(high_offsets[half], inputs[n][i], sums[n][2 + i]);
                        }
                    }
                }
            }
        }
    }
}

// What a lane sums up: of two rows of x, in each eight, the products with two outputs.
template <Format format, int ROWS>
struct TileSums {
    using S = Skinny<format>;
    // Runs of a step whose x is in registers at once: 32 of them, but whole groups.
    static constexpr int EIGHTS = ROWS / 8, GROUP_RUNS = ceil_divide(group_columns(format), RUN);
    static constexpr int FIT = 8 / EIGHTS > GROUP_RUNS ? 8 / EIGHTS : GROUP_RUNS;
    static constexpr int AT_ONCE = S::RUNS < FIT ? S::RUNS : FIT;
    static_assert(S::RUNS % AT_ONCE == 0, "runs are loaded equally many at a time");

    const bf16* rows[EIGHTS];
    int inputs, share;
    uint32_t x[AT_ONCE][EIGHTS][4];
    float sums[EIGHTS][4];

    template <class Input>
    __device__ __forceinline__ TileSums(Input input, int row_count, int inputs) : inputs(inputs) {
        int lane = threadIdx.x % 32;
        share = lane % 4;
        for (int n = 0; n < EIGHTS; n++) {
            // Behind the last row that one once more.
            rows[n] = input(min(8 * n + lane / 4, row_count - 1));
            for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
        }
    }

    // Before the step's weights are waited for: the latencies of both overlap.
    __device__ __forceinline__ void prepare(int step) { load(step * S::COLUMNS); }

    // Adds the products of a step, whose weights have arrived.
    __device__ __forceinline__ void add(int step, const uint8_t* low_row, const uint8_t* high_row) {
        add_from<0>(step, low_row, high_row);
    }

    // Of each row the pairs of outputs.
    __device__ __forceinline__ void leave(float2* to) {
        int pair = threadIdx.x % 32 / 4;
        for (int n = 0; n < EIGHTS; n++) {
            to[(8 * n + 2 * share) * 8 + pair] = make_float2(sums[n][0], sums[n][2]);
            to[(8 * n + 2 * share + 1) * 8 + pair] = make_float2(sums[n][1], sums[n][3]);
        }
    }

private:
    // The runs from `FIRST` on, whose first are in registers.
    template <int FIRST>
    __device__ __forceinline__ void add_from(int step, const uint8_t* low_row, const uint8_t* high_row) {
        multiply_runs<format, AT_ONCE, FIRST, EIGHTS>(low_row, high_row, share, x, sums);
        constexpr int NEXT = FIRST + AT_ONCE;
        if constexpr (NEXT < S::RUNS) {
            load(step * S::COLUMNS + RUN * NEXT);
            add_from<NEXT>(step, low_row, high_row);
        }
    }

    __device__ __forceinline__ void load(int column) {
        bool whole = S::COLUMNS <= block_columns(format) || is_plain(format) || column + RUN * AT_ONCE <= inputs;
        if (whole) {
#pragma unroll
            for (int run = 0; run < AT_ONCE; run++) {
                for (int n = 0; n < EIGHTS; n++) load_run(run, n, column + RUN * run);
            }
        } else {
            // Where a step's blocks end behind the row's, weights are zeros: any inputs will do.
#pragma unroll
            for (int run = 0; run < AT_ONCE; run++) {
                for (int n = 0; n < EIGHTS; n++) load_run(run, n, min(column + RUN * run, inputs - RUN));
            }
        }
    }

    __device__ __forceinline__ void load_run(int run, int n, int column) {
        input_share<format>(rows[n], inputs, column, share, x[run][n]);
    }
};

#else

// The share of a row of x that belongs to a weight's. Zeros behind `inputs`.
template <Format format>
__device__ __forceinline__ void input_share(const float* row, int inputs, int column, int share, float values[8]) {
    int first = column + first_quad<format>(share), second = column + second_quad<format>(share);
    if constexpr (is_plain(format)) {
        for (int i = 0; i < 8; i++) values[i] = first + i < inputs ? row[first + i] : 0.0f;
    } else {
        float4 low = make_float4(0.0f, 0.0f, 0.0f, 0.0f), high = low;
        if (column < inputs) {
            low = *reinterpret_cast<const float4*>(row + first);
            high = *reinterpret_cast<const float4*>(row + second);
        }
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    }
}

// What a lane sums up: of every row of x, the products of its shares of two outputs.
template <Format format, int ROWS, class Input>
struct ExactSums {
    using S = Skinny<format>;

    Input input;
    int rows, inputs, share;
    float sums[2][ROWS];

    __device__ __forceinline__ ExactSums(Input input, int rows, int inputs) : input(input), rows(rows), inputs(inputs) {
        share = threadIdx.x % 4;
        for (int row = 0; row < ROWS; row++) sums[0][row] = sums[1][row] = 0.0f;
    }

    __device__ __forceinline__ void prepare(int) {}

    __device__ __forceinline__ void add(int step, const uint8_t* low_row, const uint8_t* high_row) {
#pragma unroll 1
        for (int column = 0; column < S::COLUMNS; column += RUN) {
            float low[8], high[8];
            share_values<format>(low_row, S::COLUMNS, column, share, low);
            share_values<format>(high_row, S::COLUMNS, column, share, high);
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                if (row >= rows) continue;
                float x[8];
                input_share<format>(input(row), inputs, step * S::COLUMNS + column, share, x);
                for (int i = 0; i < 8; i++) {
                    sums[0][row] += low[i] * x[i];
                    sums[1][row] += high[i] * x[i];
                }
            }
        }
    }

    __device__ __forceinline__ void leave(float2* to) {
        int pair = threadIdx.x % 32 / 4;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            for (int i = 0; i < 2; i++) {
                sums[i][row] += __shfl_xor_sync(ALL_LANES, sums[i][row], 1);
                sums[i][row] += __shfl_xor_sync(ALL_LANES, sums[i][row], 2);
            }
            if (row % 4 == share) to[row * 8 + pair] = make_float2(sums[0][row], sums[1][row]);
        }
    }
};

#endif

// The sums of up to `ROWS` rows, 8, 16 or 32, with the tiles of outputs from `first_output` on, 16 · `tiles` outputs. A
// block has a multiple of `tiles` whole warps, and for each of them Skinny<format>::RING bytes of shared memory.
template <Format format, int ROWS, class Weight, class Input, class Output>
__device__ __forceinline__ void skinny_product(Weight weight, int outputs, int inputs, Input input, int rows,
                                               Output output, int first_output, int tiles, uint8_t* shared) {
    using S = Skinny<format>;
    int warp = threadIdx.x / 32, slices = blockDim.x / 32 / tiles, tile = warp % tiles, slice = warp / tiles;
    int first = first_output + TILE_OUTPUTS * tile, own_row = threadIdx.x % 32 / 4;
    uint8_t* ring = shared + warp * S::RING;
    // Warps whose tile lies behind the outputs have nothing to do, but wait with the others.
    int steps = first < outputs ? ceil_divide(inputs, S::COLUMNS) : 0;
    Copies<format> copies(weight, outputs, first, row_bytes<format>(inputs));

    for (int ahead = 0; ahead < SKINNY_STAGES - 1; ahead++) {
        int step = slice + ahead * slices;
        if (step < steps) copies.start(ring + ahead * S::STAGE, step);
        copy_async_commit();
    }
    // Weights were there before; rows of x may be what the kernel before this one writes.
    wait_for_last();

#ifdef ACTIVATION_BF16
    TileSums<format, ROWS> sums(input, rows, inputs);
#else
    ExactSums<format, ROWS, Input> sums(input, rows, inputs);
#endif
    int stage = 0, free_stage = SKINNY_STAGES - 1;
    for (int step = slice; step < steps; step += slices) {
        sums.prepare(step);
        copy_async_wait<SKINNY_STAGES - 2>();
        // All lanes' copies are there, and all are done with the stage that is filled again now.
        __syncwarp();
        int ahead = step + (SKINNY_STAGES - 1) * slices;
        if (ahead < steps) copies.start(ring + free_stage * S::STAGE, ahead);
        copy_async_commit();
        const uint8_t* low_row = ring + stage * S::STAGE + own_row * S::SLOT + S::skipped(step);
        sums.add(step, low_row, low_row + 8 * S::SLOT);
        stage = stage + 1 == SKINNY_STAGES ? 0 : stage + 1;
        free_stage = free_stage + 1 == SKINNY_STAGES ? 0 : free_stage + 1;
    }

    // Not before: blocks of the kernel behind this one would crowd where this one's happen to end first.
    let_next_begin();
    // A warp's sums go where its ring was, which it is done with.
    __syncwarp();
    sums.leave(reinterpret_cast<float2*>(ring));
    __syncthreads();
    for (int index = threadIdx.x; index < rows * tiles * 8; index += blockDim.x) {
        int row = index / (tiles * 8), at = index % (tiles * 8), column = first_output + 2 * at;
        if (column >= outputs) continue;
        float2 sum = make_float2(0.0f, 0.0f);
        for (int from = 0; from < slices; from++) {
            const uint8_t* of_warp = shared + (from * tiles + at / 8) * S::RING;
            float2 part = reinterpret_cast<const float2*>(of_warp)[row * 8 + at % 8];
            sum.x += part.x, sum.y += part.y;
        }
        output(row, column, sum.x, sum.y);
    }
}

// ---- many rows ----
//
// A block takes `M` rows and `N` outputs and walks over the inputs, 64 at a time. With bf16 the rows of x come by
// asynchronous copies, two steps ahead; so do weights in bf16, while quantized ones come as their bytes and are decoded
// to bf16 one step ahead, so that decoding and tensor cores work side by side. There a weight is rounded to bf16; one
// in f32 is the sum of two, of 16 bits.
//
// The floor is 2 · rows · outputs · inputs operations ÷ peak. A step of the large tile is 64 products of tensor cores
// for each warp, 4 cycles each at their best, and two warps share a scheduler: 512 cycles. Their other instructions,
// two times 220 in bf16, fit beside; two times about 430 in Q4_0 or WINT4 (as compiled for sm_90a) do not, so that
// decoding bounds quantized weights at 60 % of that.

// The parts of a tile that warps take are `WARP_M` × `WARP_N`.
template <int M_, int N_, int WARP_M_, int WARP_N_>
struct Shape {
    static constexpr int M = M_, N = N_, WARP_M = WARP_M_, WARP_N = WARP_N_;
    static constexpr int THREADS = M / WARP_M * (N / WARP_N) * 32;
    // A tile's sums lie in shared memory, rows so many f32 apart that lanes write to different banks.
    static constexpr int SUMS_STRIDE = N + 8;
    static constexpr int SUMS_BYTES = M * SUMS_STRIDE * int(sizeof(float));
};

// Hands out a tile's sums. They lie in shared memory, so that neighbouring threads have neighbouring outputs.
template <class Shape, class Output>
__device__ __forceinline__ void hand_out(const float* sums, int rows, int outputs, Output output) {
    __syncthreads();
#pragma unroll 1
    for (int index = threadIdx.x; index < Shape::M * Shape::N / 2; index += Shape::THREADS) {
        int row = index / (Shape::N / 2), column = index % (Shape::N / 2) * 2;
        if (row >= rows || column >= outputs) continue;
        output(row, column, *reinterpret_cast<const float2*>(sums + row * Shape::SUMS_STRIDE + column));
    }
}

#ifdef ACTIVATION_BF16

constexpr int DEPTH = 64;
constexpr int DEPTH_BYTES = 2 * DEPTH;
constexpr int X_STAGES = 3;

template <Format format, class Shape>
struct Tiled {
    // Weights that come as they are, those that are read and decoded at once, and those that come as bytes.
    static constexpr bool COPIED = format == BF16, READ = format == F16 || format == F32;
    static constexpr bool STAGED = !COPIED && !READ;
    static constexpr int PARTS = format == F32 ? 2 : 1;
    // Columns whose bytes are staged together, and how many steps that is: two at least.
    static constexpr int COLUMNS = STAGED ? (block_columns(format) > 128 ? block_columns(format) : 128) : DEPTH;
    static constexpr int STEPS = COLUMNS / DEPTH;
    using Bytes = Staged<format, COLUMNS>;
    static constexpr int SLOT = 16 * (Bytes::CHUNKS | 1);

    static constexpr int X_STAGE = Shape::M * DEPTH_BYTES;
    static constexpr int W_PART = Shape::N * DEPTH_BYTES;
    static constexpr int W_STAGE = PARTS * W_PART;
    static constexpr int W_STAGES = COPIED ? X_STAGES : 2;
    static constexpr int BYTES_STAGE = STAGED ? Shape::N * SLOT : 0;
    static constexpr int SHARED = X_STAGES * X_STAGE + W_STAGES * W_STAGE + 2 * BYTES_STAGE;
    static_assert(Shape::SUMS_BYTES <= SHARED, "sums lie where tiles were");
};

// Where column `column` of a row of a tile of bf16 lies. Eight rows' words of 16 bytes lie in different banks, as a
// tile is written and as matrices are read.
__device__ __forceinline__ int in_tile(int row, int column) {
    return row * DEPTH_BYTES + ((column / 8 ^ row % 8) * 16) + column % 8 * 2;
}

// Eight columns of a row of x into a tile, wherever the row is; zeros behind `inputs`.
__device__ __forceinline__ void copy_input(uint8_t* to, const bf16* row, int inputs, int column) {
#pragma unroll 1
    for (int i = 0; i < 8; i++) {
        reinterpret_cast<bf16*>(to)[i] = column + i < inputs ? row[column + i] : bf16{0};
    }
}

// A decoded share into a tile, in one part or two.
template <Format format, int PARTS>
__device__ __forceinline__ void store_share(uint8_t* tile, int part_bytes, int row, int column, int share,
                                            float values[8]) {
    for (int part = 0; part < PARTS; part++) {
        uint32_t pairs[4];
        for (int i = 0; i < 4; i++) {
            pairs[i] = pack_bf16(values[2 * i], values[2 * i + 1]);
            values[2 * i] -= low_bf16(pairs[i]);
            values[2 * i + 1] -= high_bf16(pairs[i]);
        }
        uint8_t* to = tile + part * part_bytes;
        int first = column + first_quad<format>(share), second = column + second_quad<format>(share);
        *reinterpret_cast<uint2*>(to + in_tile(row, first)) = make_uint2(pairs[0], pairs[1]);
        *reinterpret_cast<uint2*>(to + in_tile(row, second)) = make_uint2(pairs[2], pairs[3]);
    }
}

// The sums of rows `first_row` … with outputs `first_output` …, as many as the shape says. A block has Shape::THREADS
// threads and Tiled<format, Shape>::SHARED bytes of shared memory.
template <Format format, class Shape, class Weight, class Input, class Output>
__device__ __forceinline__ void tiled_product(Weight weight, int outputs, int inputs, Input input, int rows,
                                              Output output, int first_row, int first_output, uint8_t* shared) {
    using T = Tiled<format, Shape>;
    constexpr int THREADS = Shape::THREADS;
    constexpr int X_CHUNKS = Shape::M * 8 / THREADS, W_CHUNKS = Shape::N * 8 / THREADS;
    static_assert(THREADS / 8 % 8 == 0, "a thread's rows are equal modulo 8");
    static_assert(Shape::N * 4 % THREADS == 0, "a thread's shares are of the same run in a row of them");
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int steps = ceil_divide(inputs, DEPTH), bytes = row_bytes<format>(inputs);
    uint8_t* x_ring = shared;
    uint8_t* w_ring = x_ring + X_STAGES * T::X_STAGE;
    uint8_t* bytes_ring = w_ring + T::W_STAGES * T::W_STAGE;

    // A thread copies the same eight columns of every 64, of rows that are equal modulo 8.
    constexpr int APART = THREADS / 8;
    int own = thread / 8, own_column = thread % 8 * 8, own_place = in_tile(own, own_column);
    const act* x_rows[X_CHUNKS];
    bool words = inputs % 8 == 0;
#pragma unroll
    for (int i = 0; i < X_CHUNKS; i++) {
        int row = first_row + own + APART * i;
        // Behind the last row that one once more: nobody asks for what becomes of it.
        x_rows[i] = input(min(row, rows - 1));
        words &= reinterpret_cast<uint64_t>(x_rows[i]) % 16 == 0;
    }
    auto row_of = [&](int row) { return weight(min(first_output + row, outputs - 1)); };

    auto copy_tiles = [&](int step) {
        if (step >= steps) return;
        uint8_t* x_tile = x_ring + step % X_STAGES * T::X_STAGE + own_place;
        int column = step * DEPTH + own_column;
        if (words) {
#pragma unroll
            for (int i = 0; i < X_CHUNKS; i++) {
                copy_async_16(x_tile + i * APART * DEPTH_BYTES, x_rows[i] + column, column < inputs);
            }
        } else {
#pragma unroll
            for (int i = 0; i < X_CHUNKS; i++) {
                copy_input(x_tile + i * APART * DEPTH_BYTES, x_rows[i], inputs, column);
            }
        }
        if constexpr (T::COPIED) {
            uint8_t* w_tile = w_ring + step % X_STAGES * T::W_STAGE + own_place;
#pragma unroll
            for (int i = 0; i < W_CHUNKS; i++) {
                const uint8_t* from = row_of(own + APART * i) + 2 * column;
                copy_async_16(w_tile + i * APART * DEPTH_BYTES, from, 2 * column < bytes);
            }
        }
    };
    // The bytes of `T::STEPS` steps.
    auto copy_bytes = [&](int stage) {
        constexpr int ALL = Shape::N * T::Bytes::CHUNKS;
        int begin = T::Bytes::begin(stage);
        uint8_t* to = bytes_ring + stage % 2 * T::BYTES_STAGE;
        if (stage * T::STEPS >= steps) return;
#pragma unroll
        for (int i = 0; i < (ALL + THREADS - 1) / THREADS; i++) {
            int index = thread + THREADS * i;
            if (ALL % THREADS != 0 && index >= ALL) break;
            int row = index / T::Bytes::CHUNKS, at = index % T::Bytes::CHUNKS * 16;
            copy_async_16(to + row * T::SLOT + at, row_of(row) + begin + at, begin + at < bytes);
        }
    };
    auto decode = [&](int step) {
        if (step >= steps) return;
        uint8_t* tile = w_ring + step % 2 * T::W_STAGE;
        int share = thread % 4, stage = step / T::STEPS;
        const uint8_t* staged = bytes_ring + stage % 2 * T::BYTES_STAGE + T::Bytes::skipped(stage);
#pragma unroll
        for (int i = 0; i < W_CHUNKS; i++) {
            constexpr int EACH = Shape::N * 4 / THREADS;
            int row = thread / 4 + THREADS / 4 * (i % EACH), column = i / EACH * RUN;
            float values[8];
            if constexpr (T::STAGED) {
                int from = step % T::STEPS * DEPTH + column;
                share_values<format>(staged + row * T::SLOT, T::COLUMNS, from, share, values);
            } else {
                share_values<format>(row_of(row), inputs, step * DEPTH + column, share, values);
            }
            store_share<format, T::PARTS>(tile, T::W_PART, row, column, share, values);
        }
    };

    copy_tiles(0);
    if constexpr (T::STAGED) copy_bytes(0);
    copy_async_commit();
    copy_tiles(1);
    if constexpr (T::STAGED) copy_bytes(1);
    copy_async_commit();
    if constexpr (!T::COPIED) {
        copy_async_wait<1>();
        __syncthreads();
        decode(0);
    }

    constexpr int MS = Shape::WARP_M / 16, NS = Shape::WARP_N / 8;
    int warp_m = warp % (Shape::M / Shape::WARP_M) * Shape::WARP_M;
    int warp_n = warp / (Shape::M / Shape::WARP_M) * Shape::WARP_N;
    float sums[MS][NS][4] = {};
    for (int step = 0; step < steps; step++) {
        // What is needed now set out two steps ago at the latest; and all are done with the last step's tiles.
        copy_async_wait<1>();
        __syncthreads();
        copy_tiles(step + 2);
        if constexpr (T::STAGED) {
            // Decoding of the stage before the next begins with this step, so that the place of the last one is free.
            if ((step + 1) % T::STEPS == 0 && step > 0) copy_bytes((step + 1) / T::STEPS + 1);
        }
        copy_async_commit();
        if constexpr (!T::COPIED) decode(step + 1);

        const uint8_t* x_tile = x_ring + step % X_STAGES * T::X_STAGE;
        const uint8_t* w_tile = w_ring + step % T::W_STAGES * T::W_STAGE;
#pragma unroll
        for (int column = 0; column < DEPTH; column += 16) {
            uint32_t a[MS][4];
#pragma unroll
            for (int m = 0; m < MS; m++) {
                ldmatrix_x4(a[m], x_tile + in_tile(warp_m + 16 * m + lane % 16, column + lane / 16 * 8));
            }
#pragma unroll
            for (int part = 0; part < T::PARTS; part++) {
#pragma unroll
                for (int n = 0; n < NS; n += 2) {
                    uint32_t b[4];
                    int row = warp_n + 8 * n + lane / 16 * 8 + lane % 8;
                    ldmatrix_x4(b, w_tile + part * T::W_PART + in_tile(row, column + lane / 8 % 2 * 8));
#pragma unroll
                    for (int m = 0; m < MS; m++) {
                        mma_m16n8k16_bf16(sums[m][n], a[m], b);
                        mma_m16n8k16_bf16(sums[m][n + 1], a[m], b + 2);
                    }
                }
            }
        }
    }

    float* tile = reinterpret_cast<float*>(shared);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < MS; m++) {
#pragma unroll
        for (int n = 0; n < NS; n++) {
            float* to = tile + (warp_m + 16 * m + lane / 4) * Shape::SUMS_STRIDE + warp_n + 8 * n + lane % 4 * 2;
            reinterpret_cast<float2*>(to)[0] = make_float2(sums[m][n][0], sums[m][n][1]);
            reinterpret_cast<float2*>(to + 8 * Shape::SUMS_STRIDE)[0] = make_float2(sums[m][n][2], sums[m][n][3]);
        }
    }
    hand_out<Shape>(tile, rows - first_row, outputs - first_output, [&](int row, int column, float2 pair) {
        output(first_row + row, first_output + column, pair.x, pair.y);
    });
}

#else

constexpr int DEPTH = RUN;

template <Format format, class Shape>
struct Tiled {
    // Columns of a tile lie `…_STRIDE` apart, each with all rows.
    static constexpr int X_STRIDE = Shape::M + 4, W_STRIDE = Shape::N + 4;
    static constexpr int TILES_BYTES = DEPTH * (X_STRIDE + W_STRIDE) * int(sizeof(float));
    static constexpr int SHARED = TILES_BYTES > Shape::SUMS_BYTES ? TILES_BYTES : Shape::SUMS_BYTES;
};

template <Format format>
__device__ __forceinline__ void store_column(float* tile, int stride, int row, int share, const float values[8]) {
    for (int i = 0; i < 4; i++) {
        tile[(first_quad<format>(share) + i) * stride + row] = values[i];
        tile[(second_quad<format>(share) + i) * stride + row] = values[4 + i];
    }
}

// The same in f32: for being exact, not for speed.
template <Format format, class Shape, class Weight, class Input, class Output>
__device__ __forceinline__ void tiled_product(Weight weight, int outputs, int inputs, Input input, int rows,
                                              Output output, int first_row, int first_output, uint8_t* shared) {
    using T = Tiled<format, Shape>;
    constexpr int THREADS = Shape::THREADS, MS = Shape::M / 16, NS = Shape::N * 16 / THREADS;
    float* x_tile = reinterpret_cast<float*>(shared);
    float* w_tile = x_tile + DEPTH * T::X_STRIDE;
    int thread = threadIdx.x, own_row = thread % 16, own_column = thread / 16 * NS;
    float sums[MS][NS] = {};
    for (int column = 0; column < inputs; column += DEPTH) {
        for (int index = thread; index < Shape::M * 4; index += THREADS) {
            int row = index / 4, share = index % 4;
            float values[8];
            input_share<format>(input(min(first_row + row, rows - 1)), inputs, column, share, values);
            store_column<format>(x_tile, T::X_STRIDE, row, share, values);
        }
        for (int index = thread; index < Shape::N * 4; index += THREADS) {
            int row = index / 4, share = index % 4;
            float values[8];
            share_values<format>(weight(min(first_output + row, outputs - 1)), inputs, column, share, values);
            store_column<format>(w_tile, T::W_STRIDE, row, share, values);
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < DEPTH; k++) {
            float x[MS], w[NS];
            for (int m = 0; m < MS; m++) x[m] = x_tile[k * T::X_STRIDE + own_row + 16 * m];
            for (int n = 0; n < NS; n++) w[n] = w_tile[k * T::W_STRIDE + own_column + n];
            for (int m = 0; m < MS; m++) {
                for (int n = 0; n < NS; n++) sums[m][n] += x[m] * w[n];
            }
        }
        __syncthreads();
    }
    float* tile = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int m = 0; m < MS; m++) {
        float* to = tile + (own_row + 16 * m) * Shape::SUMS_STRIDE + own_column;
#pragma unroll
        for (int n = 0; n < NS; n++) to[n] = sums[m][n];
    }
    hand_out<Shape>(tile, rows - first_row, outputs - first_output, [&](int row, int column, float2 pair) {
        output(first_row + row, first_output + column, pair.x, pair.y);
    });
}

#endif

#endif  // SHARDWIRE_PRODUCT_CUH

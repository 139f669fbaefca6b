// variants: FORMAT
// The products of experts, of all that are visited at once. A block takes a tile of one expert's visits, as
// moe/cuda.cu lists them, and some of its outputs; what becomes of a list that is shorter than its bound ends at once.
//
// Few visits per expert: the weights of those that are visited are read once, and that is the floor. Of 128 experts, 8
// chosen, 2048 × 768 in bf16, one token reads 75 MB, 23 µs at 3.35 TB/s; 16 tokens read 63 % of all, 0.23 ms. Many
// visits: 8192 tokens are 619 GFLOP, 0.63 ms at 990 TFLOP/s, while weights are 1.2 GB, 0.36 ms; the tensor cores
// decide, and tiles of up to 128 visits share the weights.

#include "device.cuh"
#include "formats.cuh"
#include "gate.cuh"
#include "product.cuh"

// The visits of a block: tile blockIdx.y.
struct Tile {
    int expert, first, visits;
};

// Without visits where there is no such tile, or its expert is not one of the `experts` from `first_expert` on: those
// whose weights lie a step apart, and are meant by this launch.
__device__ __forceinline__ Tile own_tile(const int2* tiles, const int* starts, int most, int first_expert,
                                         int experts) {
    int2 tile = tiles[blockIdx.y];
    if (tile.x < first_expert || tile.x >= first_expert + experts) return Tile{0, 0, 0};
    return Tile{tile.x, tile.y, min(most, starts[tile.x + 1] - tile.y)};
}

// An expert's rows in pairs: neighbouring outputs, or a gate and its up, whose sums meet in one thread.
struct Pairs {
    const uint8_t* rows;
    // From a pair to the next, and from its first row to its second.
    int64_t stride, to_second;

    __device__ __forceinline__ const uint8_t* operator()(int output) const {
        return rows + output / 2 * stride + (output % 2 ? to_second : 0);
    }
};

// What a tile's visits bring: rows of their tokens, or where `visitors` is null rows of their own, one after the other.
struct Inputs {
    const act* rows;
    const int* visitors;
    int64_t columns;

    __device__ __forceinline__ const act* operator()(int visit) const {
        return rows + (visitors == nullptr ? visit : visitors[visit]) * columns;
    }
};

// What becomes of a pair's sums: one inner element, or two outputs. Rows of results are `stride` apart. Of a gate and
// its up, the second bias is that of the up, `width` further on.
struct Results {
    act* rows;
    const float* bias;
    int64_t stride;
    int width;
    bool gates;
    Gate gate;

    __device__ __forceinline__ void operator()(int visit, int column, float first, float second) const {
        act* row = rows + visit * stride;
        if (gates) {
            int at = column / 2;
            if (bias != nullptr) first += bias[at], second += bias[width + at];
            row[at] = from_float<act>(gated(gate, first, second));
        } else {
            bool both = column + 1 < width;
            if (bias != nullptr) first += bias[column], second += both ? bias[column + 1] : 0.0f;
            store_pair(row + column, first, second, both);
        }
    }
};

// Products of few visits, at most 8 or 16 of an expert in a block, `tiles` tiles of 16 outputs …
template <int VISITS>
struct Few {
    static constexpr int MOST = VISITS;

    static __device__ __forceinline__ void run(Pairs weight, int outputs, Inputs input, int inputs, int visits,
                                               Results results, int tiles) {
        DYNAMIC_SHARED(uint8_t, shared);
        skinny_product<FORMAT, VISITS>(weight, outputs, inputs, input, visits, results,
                                       blockIdx.x * TILE_OUTPUTS * tiles, tiles, shared);
    }
};

// … and of many.
template <class Shape>
struct Many {
    static constexpr int MOST = Shape::M;

    static __device__ __forceinline__ void run(Pairs weight, int outputs, Inputs input, int inputs, int visits,
                                               Results results, int) {
        DYNAMIC_SHARED(uint8_t, shared);
        tiled_product<FORMAT, Shape>(weight, outputs, inputs, input, visits, results, 0, blockIdx.x * Shape::N, shared);
    }
};

// y [visits, …], rows `y_stride` apart and `width` results in each, from x: rows of tokens, or where `visitors` is null of
// visits. `weight` is the first row of expert `first_expert`; rows of pairs are `stride` apart, a pair's second row
// `to_second` further on, and experts `step` (bytes all). Biases of experts are `bias_step` apart; none: null. With
// `gates` a pair is a gate and its up, and makes one result by way of the activation; else it makes two.
template <class Product>
__device__ __forceinline__ void product_of_experts(act* y, const act* x, const int* visitors, const int2* tiles,
                                                   const int* starts, const uint8_t* weight, int64_t step,
                                                   int64_t to_second, int64_t stride, const float* bias, int bias_step,
                                                   int first_expert, int experts, int width, int inputs, int y_stride,
                                                   bool gates, Gate gate, int tiles_of_outputs) {
    wait_for_last();
    Tile tile = own_tile(tiles, starts, Product::MOST, first_expert, experts);
    if (tile.visits == 0) return;
    Pairs rows{weight + (tile.expert - first_expert) * step, stride, to_second};
    Inputs input{x, visitors, inputs};
    if (visitors == nullptr) {
        input.rows += int64_t(tile.first) * inputs;
    } else {
        input.visitors += tile.first;
    }
    const float* own_bias = bias == nullptr ? nullptr : bias + int64_t(tile.expert) * bias_step;
    Results results{y + int64_t(tile.first) * y_stride, own_bias, y_stride, width, gates, gate};
    Product::run(rows, gates ? 2 * width : width, input, inputs, tile.visits, results, tiles_of_outputs);
}

#define PRODUCT_OF_EXPERTS(Product)                                                                                    \
    (act* y, const act* x, const int* visitors, const int2* tiles, const int* starts, const uint8_t* weight,           \
     long long step, long long to_second, long long stride, const float* bias, int bias_step, int first_expert,        \
     int experts, int width, int inputs, int y_stride, int gates, int activation, float limit, float alpha,            \
     int tiles_of_outputs) {                                                                                           \
        product_of_experts<Product>(y, x, visitors, tiles, starts, weight, step, to_second, stride, bias, bias_step,   \
                                    first_expert, experts, width, inputs, y_stride, gates != 0,                        \
                                    Gate{activation, limit, alpha}, tiles_of_outputs);                                 \
    }

using Few8 = Few<8>;
using Few16 = Few<16>;
using Many64 = Many<Shape<64, 64, 32, 32>>;
using Many128 = Many<Shape<128, 128, 64, 32>>;

KERNEL(experts_8, 256) PRODUCT_OF_EXPERTS(Few8)
KERNEL(experts_16, 256) PRODUCT_OF_EXPERTS(Few16)
KERNEL(experts_64, 128) PRODUCT_OF_EXPERTS(Many64)
KERNEL(experts_128, 256) PRODUCT_OF_EXPERTS(Many128)

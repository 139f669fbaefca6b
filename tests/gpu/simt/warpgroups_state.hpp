// What a block's warpgroups have begun and not yet waited for.
#pragma once

#include <list>
#include <vector>

#include "fiber.hpp"

namespace simt {

struct WarpgroupProduct;

// What a product reads, and what it read when it began.
struct ProductReading {
    int group;
    Place place;
    uint64_t left, right;
    bool is_transposed;
    int first_row;  // of the warp's 16, in the left factor
    const uint32_t* registers[WARP_SIZE];
    uint16_t read_left[16 * 16];
    uint16_t read_right[16 * 128];
};

// Sums that lanes can't have yet.
struct ProductSums {
    int group;  // the last that adds to them
    float* to[WARP_SIZE];
    float values[WARP_SIZE][64];
};

struct WarpProducts {
    int arrived = 0;
    int line = 0;
    bool done = false;
    const WarpgroupProduct* brought[WARP_SIZE] = {};
    bool is_fenced = false;
    int group = 0;
    int registers = 0;
    uint64_t history = 0;
    std::list<ProductReading> readings;
    std::list<ProductSums> sums;
};

struct BarrierWaiter {
    Fiber* fiber;
    const uint64_t* barrier;
    int parity;
};

struct Warpgroups {
    WarpProducts warps[BLOCK_THREADS_MAX / WARP_SIZE];
    std::vector<BarrierWaiter> waiters;
    // Of each 16 bytes of dynamic shared memory the thread that wrote them (from 1), if the async proxy doesn't know;
    // and of each thread those that it wrote.
    std::vector<uint16_t> writer;
    std::vector<std::vector<uint32_t>> written;

    void begin(int threads);
    // Whether warps of a warpgroup began the same products.
    bool agree(int warp_count) const;
};

// A thread exits.
void check_products_of(Fiber& fiber);

}  // namespace simt

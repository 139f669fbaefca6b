// What a block's warpgroups have begun and not yet waited for.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "fiber.hpp"
#include "tensor_map.hpp"

namespace simt {

struct Block;
struct WarpgroupProduct;

// What a product reads, and what it read when it began.
struct ProductReading {
    int group;
    Place place;
    uint64_t left, right;
    bool is_transposed;
    int columns;
    int first_row;  // of the warp's 16, in the left factor
    const uint32_t* registers[WARP_SIZE];
    uint16_t read_left[16 * 16];
    uint16_t read_right[16 * 128];
};

// Sums that lanes can't have yet.
struct ProductSums {
    int group;  // the last that adds to them
    int count;  // of a lane
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

// A box that is on its way to shared memory.
struct BoxCopy {
    EncodedMatrix matrix;
    char* to;
    int column, row;  // where it begins in the matrix
    uint64_t* barrier;
    Place place;
};

// A barrier that a thread initialized, and that the async proxy doesn't know.
struct UnfencedBarrier {
    const uint64_t* barrier;
    int thread;
};

struct Warpgroups {
    WarpProducts warps[BLOCK_THREADS_MAX / WARP_SIZE];
    std::vector<BarrierWaiter> waiters;
    std::vector<BoxCopy> boxes;
    std::vector<UnfencedBarrier> unfenced_barriers;
    // Of each 16 bytes of dynamic shared memory the thread that wrote them (from 1), if the async proxy doesn't know;
    // and of each thread those that it wrote.
    std::vector<uint16_t> writer;
    std::vector<std::vector<uint32_t>> written;

    void begin(int threads);
    // Whether warps of a warpgroup began the same products.
    bool agree(int warp_count) const;
};

// A thread's number in its block.
int number_of(const Fiber& fiber);

// Whether threads wrote there what the async proxy doesn't know.
bool is_unfenced(const Block& block, const char* shared, size_t bytes);

// A thread exits.
void check_products_of(Fiber& fiber);

// A barrier of the block's is told of bytes that came.
void bring_to_barrier(Block& block, uint64_t* barrier, int bytes, Place place);
bool is_barrier(const uint64_t* barrier);

// No thread of the block can go on: a box that one waits for arrives, if there is any.
bool let_box_arrive(Block& block);
// What threads wait for at barriers, for a report.
std::string told_of_barriers(const Block& block);

}  // namespace simt

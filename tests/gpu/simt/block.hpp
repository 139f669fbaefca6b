// A block while it runs: its warps, who of them can go on, and what they wait for.
#pragma once

#include "fiber.hpp"
#include "kernels.hpp"
#include "stacks.hpp"
#include "warp.hpp"
#include "warpgroups_state.hpp"

namespace simt {

struct Block;

// Lanes that meet in one warp operation.
struct Gathering {
    uint32_t mask;
    uint32_t arrived;
    WarpOperation operation;
    Place place;
};

// Lanes have positions, the order in which they take turns; the seed decides it.
struct Warp {
    Block* block;
    int first;       // its first thread's number in the block
    uint32_t lanes;  // those that exist
    uint32_t ready;  // positions of lanes that can run, the running one's too
    uint32_t exited;
    uint32_t at_barrier;
    int turn;  // the position whose turn is next
    int gathering_count;
    uint8_t lane_at[WARP_SIZE];
    uint8_t position_of[WARP_SIZE];
    Fiber* fiber[WARP_SIZE];  // of each lane; null before it begins
    Gathering gatherings[WARP_SIZE];
    Operands operands[WARP_SIZE];
    uint64_t results[WARP_SIZE];
};

struct Random {
    uint64_t state;

    uint32_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return uint32_t(state >> 32);
    }
};

struct Block : BlockView {
    const Launch* launch = nullptr;
    Stacks stacks;
    Context scheduler;
    Warp warps[BLOCK_THREADS_MAX / WARP_SIZE];
    int warp_order[BLOCK_THREADS_MAX / WARP_SIZE];
    int thread_count = 0;
    int warp_count = 0;
    int waiting = 0;  // at the barrier
    int exited = 0;
    int at_cluster_barrier = 0;
    int spun = 0;  // lanes that spun since the scheduler last looked
    Place barrier;
    int vote_count = 0;
    int vote_result = 0;
    Random random{1};

    Warpgroups warpgroups;

    int free_stacks[BLOCK_THREADS_MAX];
    int free_stack_count = 0;

    char* shared_area = nullptr;
    size_t shared_area_bytes = 0;
    std::vector<char> kept_static_shared;  // while another block of the cluster runs
    uint32_t number = 0;  // of all blocks that were counted
    enum class Phase : uint8_t { Before, Running, Ended } phase = Phase::Before;

    ~Block();

    // A block of the launch that `launch` is, which nobody has run yet.
    void prepare(uint3 index);
    // Runs until all threads have ended, or those that have not wait for the cluster.
    void advance();
    // All blocks of the cluster are where they wait for each other: the threads go on with the next `advance`.
    void release_from_cluster();
    void reserve_shared(size_t bytes);
    uint3 thread_index(int number) const;

    // The running fiber can't go on: the next lane of its warp does, or the scheduler.
    void leave(Fiber& fiber);
    // The running fiber could go on, but others shall: `turn` is the position to come back to.
    void give_way(Fiber& fiber, int turn);
    void go_on_with(Fiber& fiber, int position);
    // Ends the process: what no thread does, but the block.
    [[noreturn]] void fail(const char* what, Place place) const;
    void release_barrier();

private:
    void begin();
    void run();
    void end();
    void begin_warps();
    void order_lanes(Warp& warp);
    void order_warps();
    void fill_shared();
    void check_shared();
    void resume(Warp& warp);
    [[noreturn]] void report_deadlock();
};

// The next position that can run, from `turn` on, or -1; around the end only if `wrapping`.
int next_position(const Warp& warp, int turn, bool wrapping);

uint32_t positions_of(const Warp& warp, uint32_t lanes);

// All lanes of a mask brought their operands: computes their results.
void execute(Warp& warp, WarpOperation operation, uint32_t mask);

}  // namespace simt

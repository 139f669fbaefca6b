// The stacks of fibers, and the switch from one to another.
#pragma once

#include "fiber.hpp"

namespace simt {

// The stacks of one thread of the process: as many as a block may have threads, cleared away with it.
class Stacks {
public:
    Stacks();
    ~Stacks();
    Stacks(const Stacks&) = delete;

    // The fiber of a stack, ready to begin `main`.
    Fiber& prepare(int stack, void (*main)());

    int number(const Fiber& fiber) const { return int(&fiber - fibers) - slab_ * BLOCK_THREADS_MAX; }

private:
    int slab_;
    bool mapped_[BLOCK_THREADS_MAX] = {};
};

bool on_stacks(uintptr_t address);

// Leaves `from` and goes on with `to`. `ends`: nobody will come back.
void switch_context(Context& from, const Context& to, bool ends = false);

// What a fiber does first.
void arrive_on_new_stack();

// The stack that the process gave this thread.
Context own_context();

}  // namespace simt

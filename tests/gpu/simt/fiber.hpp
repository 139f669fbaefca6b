// A fiber is a stack with a CUDA thread on it. Fibers of a block take turns on one thread of the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;

    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 of) : x(of.x), y(of.y), z(of.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

namespace simt {

#ifdef __SANITIZE_ADDRESS__
constexpr int STACK_BITS = 18;  // frames grow by the red zones around their variables
#else
constexpr int STACK_BITS = 16;
#endif
constexpr size_t STACK_BYTES = size_t(1) << STACK_BITS;
constexpr int WARP_SIZE = 32;
constexpr int BLOCK_THREADS_MAX = 1024;

// Where in a kernel's source something was called.
struct Place {
    const char* file;
    int line;

    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

// What a switch leaves and comes back to.
struct Context {
    void* stack_pointer = nullptr;
    void* fake_stack = nullptr;  // AddressSanitizer's
    const void* bottom = nullptr;
    size_t bytes = 0;
};

struct Warp;
struct Traffic;
class Cluster;

// What all threads of a block see of it.
struct BlockView {
    uint3 index;
    uint3 threads;
    uint3 grid;
    char* dynamic_shared;
    Traffic* traffic;
    bool may_begin_early;
    Cluster* cluster;
    int rank;  // in its cluster
};

enum class Waiting : uint8_t { Nothing, Warp, Block, Cluster };

struct PendingCopy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
    int group;
    Place place;
};

struct alignas(64) Fiber {
    uint3 thread;
    int lane;
    BlockView* block;
    Warp* warp;
    Context context;
    Place place;  // of the operation in which it waits
    Waiting waiting;
    uint32_t mask;  // of the warp operation in which it waits

    // Asynchronous copies that no wait has completed.
    PendingCopy* copies;
    int copy_count;
    int copy_capacity;
    int copy_group;

    bool has_waited;  // for the kernel before
};

// All stacks of all threads lie in one range, so that a fiber is found by the stack pointer alone: thread-local
// variables of a shared library would cost a call each time.
extern char* stack_range;
extern Fiber* fibers;

inline Fiber& self() {
    char* stack;
    asm("mov %%rsp, %0" : "=r"(stack));
    return fibers[(stack - stack_range) >> STACK_BITS];
}

// Ends the process: says which kernel, block and thread did what.
[[noreturn]] void fail(const char* what, Place place = {nullptr, 0});

}  // namespace simt

#include "stacks.hpp"

#include "kernels.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <pthread.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a function must keep, changes the stack, and restores the same of the other fiber.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
    .text
    .p2align 4
    .hidden simt_switch
    .globl simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");

namespace simt {

char* stack_range;
Fiber* fibers;

namespace {

constexpr int SLABS_MAX = 256;  // threads that may run kernels at once
constexpr size_t SLAB_BYTES = STACK_BYTES * BLOCK_THREADS_MAX;
constexpr size_t GUARD_BYTES = 4096;
constexpr int KEPT_REGISTERS = 6;

std::mutex slabs_lock;
bool slab_taken[SLABS_MAX];

void* reserve(size_t bytes, int protection) {
    void* at = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("stand-in gpu: no address space for stacks");
        abort();
    }
    return at;
}

int take_slab() {
    std::lock_guard lock(slabs_lock);
    if (!stack_range) {
        fibers = static_cast<Fiber*>(reserve(sizeof(Fiber) * BLOCK_THREADS_MAX * SLABS_MAX, PROT_READ | PROT_WRITE));
        stack_range = static_cast<char*>(reserve(SLAB_BYTES * SLABS_MAX, PROT_NONE));
    }
    for (int slab = 0; slab < SLABS_MAX; slab++) {
        if (!slab_taken[slab]) {
            slab_taken[slab] = true;
            return slab;
        }
    }
    fprintf(stderr, "stand-in gpu: more than %d threads run kernels\n", SLABS_MAX);
    abort();
}

}  // namespace

Stacks::Stacks() : slab_(take_slab()) {}

Stacks::~Stacks() {
    std::lock_guard lock(slabs_lock);
    char* first = stack_range + slab_ * SLAB_BYTES;
    mmap(first, SLAB_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    slab_taken[slab_] = false;
}

Fiber& Stacks::prepare(int stack, void (*main)()) {
    char* bottom = stack_range + slab_ * SLAB_BYTES + stack * STACK_BYTES;
    if (!mapped_[stack]) {
        // The lowest page stays out of reach, so that a stack that overflows doesn't reach its neighbour.
        if (mprotect(bottom + GUARD_BYTES, STACK_BYTES - GUARD_BYTES, PROT_READ | PROT_WRITE)) {
            perror("stand-in gpu: no memory for stacks");
            abort();
        }
        mapped_[stack] = true;
    }
    // Stacks begin at different lines of a page: at the same one they would all compete for one set of the cache.
    char* top = bottom + STACK_BYTES - 128 - stack % 64 * 64;
    void** frame = reinterpret_cast<void**>(top);
    *--frame = nullptr;  // where `main` would return to
    *--frame = reinterpret_cast<void*>(main);
    frame -= KEPT_REGISTERS;
    memset(frame, 0, KEPT_REGISTERS * sizeof(void*));

    Fiber& fiber = fibers[slab_ * BLOCK_THREADS_MAX + stack];
    fiber.context = {frame, nullptr, bottom, STACK_BYTES};
    return fiber;
}

void switch_context(Context& from, const Context& to, [[maybe_unused]] bool ends) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack, to.bottom, to.bytes);
#endif
    simt_switch(&from.stack_pointer, to.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void arrive_on_new_stack() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

bool on_stacks(uintptr_t address) {
    auto start = reinterpret_cast<uintptr_t>(stack_range);
    return start && address >= start && address < start + SLAB_BYTES * SLABS_MAX;
}

bool overflows(uintptr_t stack_pointer, uintptr_t address) {
    auto start = reinterpret_cast<uintptr_t>(stack_range);
    return on_stacks(stack_pointer) && (stack_pointer - start) >> STACK_BITS == (address - start) >> STACK_BITS;
}

Context own_context() {
    Context own;
    pthread_attr_t attributes;
    void* bottom;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &own.bytes);
    pthread_attr_destroy(&attributes);
    own.bottom = bottom;
    return own;
}

}  // namespace simt

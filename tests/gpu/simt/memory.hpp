// Shared memory, asynchronous copies, atomics, and talk with other processes.
#pragma once

#include "fiber.hpp"
#include "warp.hpp"

// Filled with NaN before each block; what is written behind its end is found when the block ends.
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(simt::self().block->dynamic_shared)

namespace simt {

// The destination is NaN until a wait completes the copy.
void copy_async(void* to, const void* from, int bytes, bool valid, Place place);
void complete_copies(int groups_left, Place place);

}  // namespace simt

inline void copy_async_16(void* shared, const void* global, bool valid = true, SIMT_HERE) {
    simt::copy_async(shared, global, 16, valid, place);
}
inline void copy_async_8(void* shared, const void* global, bool valid = true, SIMT_HERE) {
    simt::copy_async(shared, global, 8, valid, place);
}
inline void copy_async_4(void* shared, const void* global, bool valid = true, SIMT_HERE) {
    simt::copy_async(shared, global, 4, valid, place);
}
inline void copy_async_commit() { simt::self().copy_group++; }

template <int GROUPS_LEFT>
void copy_async_wait(SIMT_HERE) {
    simt::complete_copies(GROUPS_LEFT, place);
}

template <class T>
T __ldg(const T* from) {
    return *from;
}
template <class T>
T __ldcs(const T* from) {
    return *from;
}
template <class T>
T __ldcg(const T* from) {
    return *from;
}
template <class T>
void __stcs(T* to, T value) {
    *to = value;
}
template <class T>
void __stcg(T* to, T value) {
    *to = value;
}

// A kernel that may begin early isn't run early here; but all of its threads have to wait (block.cpp).
inline void let_next_begin() {}
inline void wait_for_last() { simt::self().has_waited = true; }

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline void store_release_system(uint32_t* to, uint32_t value) { __atomic_store_n(to, value, __ATOMIC_RELEASE); }
inline uint32_t load_acquire_system(const uint32_t* from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }

// Lets other threads of the block, and other processes, go on. A kernel that spins too long is ended.
void spin_pause(SIMT_HERE);
inline void __nanosleep(unsigned) { spin_pause(); }

[[noreturn]] inline void __trap() { simt::fail("__trap()"); }

namespace simt {

// Reads, computes and writes as one step. The values are compared as bits, so that a NaN ends the loop too.
template <class T, class F>
T atomic_update(T* at, F compute) {
    T before;
    __atomic_load(at, &before, __ATOMIC_RELAXED);
    for (;;) {
        T after = compute(before);
        if (__atomic_compare_exchange(at, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return before;
    }
}

}  // namespace simt

// Overloads as CUDA has them, and for the host's own uint64_t.
#define SIMT_ATOMIC(name, type, after)                                              \
    inline type name(type* at, type value) {                                        \
        return simt::atomic_update(at, [=](type before) -> type { return after; }); \
    }
#define SIMT_ATOMIC_INTEGERS(name, after)   \
    SIMT_ATOMIC(name, int, after)           \
    SIMT_ATOMIC(name, unsigned, after)      \
    SIMT_ATOMIC(name, unsigned long, after) \
    SIMT_ATOMIC(name, unsigned long long, after)

SIMT_ATOMIC_INTEGERS(atomicAdd, before + value)
SIMT_ATOMIC(atomicAdd, float, before + value)
SIMT_ATOMIC(atomicAdd, double, before + value)
SIMT_ATOMIC(atomicSub, int, before - value)
SIMT_ATOMIC(atomicSub, unsigned, before - value)
SIMT_ATOMIC_INTEGERS(atomicMin, before < value ? before : value)
SIMT_ATOMIC(atomicMin, long long, before < value ? before : value)
SIMT_ATOMIC_INTEGERS(atomicMax, before > value ? before : value)
SIMT_ATOMIC(atomicMax, long long, before > value ? before : value)
SIMT_ATOMIC_INTEGERS(atomicAnd, before& value)
SIMT_ATOMIC_INTEGERS(atomicOr, before | value)
SIMT_ATOMIC_INTEGERS(atomicXor, before ^ value)
SIMT_ATOMIC_INTEGERS(atomicExch, (void(before), value))
SIMT_ATOMIC(atomicExch, float, (void(before), value))
SIMT_ATOMIC(atomicInc, unsigned, before >= value ? 0 : before + 1)
SIMT_ATOMIC(atomicDec, unsigned, before == 0 || before > value ? value : before - 1)

#undef SIMT_ATOMIC
#undef SIMT_ATOMIC_INTEGERS

#define SIMT_ATOMIC_CAS(type)                                                                         \
    inline type atomicCAS(type* at, type expected, type value) {                                      \
        __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return expected;                                                                              \
    }
SIMT_ATOMIC_CAS(int)
SIMT_ATOMIC_CAS(unsigned)
SIMT_ATOMIC_CAS(unsigned long)
SIMT_ATOMIC_CAS(unsigned long long)
SIMT_ATOMIC_CAS(unsigned short)
#undef SIMT_ATOMIC_CAS

// Twins of what warpgroups.cuh has for a GPU: barriers in shared memory, and products of warpgroups, which are as late
// as they may be.
#pragma once

#include "arithmetic.hpp"
#include "fiber.hpp"
#include "vectors.hpp"
#include "warp.hpp"

namespace simt {

// What a lane brings to a product of its warpgroup: 64 × `columns` sums, 16 products each.
struct WarpgroupProduct {
    float* sums;                // half as many of the lane's
    const uint32_t* registers;  // the left factor's, or null where it lies in shared memory too
    uint64_t left, right;       // descriptors
    bool is_bf16;
    bool is_transposed;  // the right factor's rows lie along the result's columns
    bool adds;
    int columns = 128;
};

void multiply_warpgroup(const WarpgroupProduct& product, Place place);
void fence_warpgroup(Place place);
void commit_warpgroup(Place place);
void wait_warpgroup(int groups_left, Place place);

void init_barrier(uint64_t* barrier, int arrivals, Place place);
// And so many bytes more are to come before the phase is over.
void arrive_at_barrier(uint64_t* barrier, int bytes, Place place);
void wait_at_barrier(uint64_t* barrier, int parity, Place place);

// Remembers that this thread wrote there, and that the async proxy doesn't know yet; and tells it of all such places.
void note_unfenced(const void* shared, size_t bytes);
void fence_proxy();

void have_registers(int registers, Place place);

uint32_t address_in_shared(const void* shared, Place place);

}  // namespace simt

inline uint32_t shared_address(const void* shared, SIMT_HERE) { return simt::address_in_shared(shared, place); }

inline void barrier_init(uint64_t* barrier, int arrivals, SIMT_HERE) { simt::init_barrier(barrier, arrivals, place); }
inline void barrier_arrive(uint64_t* barrier, SIMT_HERE) { simt::arrive_at_barrier(barrier, 0, place); }
inline void barrier_arrive_expecting(uint64_t* barrier, int bytes, SIMT_HERE) {
    simt::arrive_at_barrier(barrier, bytes, place);
}
inline void barrier_wait(uint64_t* barrier, int parity, SIMT_HERE) { simt::wait_at_barrier(barrier, parity, place); }

inline void fence_async_proxy() { simt::fence_proxy(); }
inline void store_factors(void* shared, uint4 value) {
    memcpy(shared, &value, sizeof value);
    simt::note_unfenced(shared, sizeof value);
}

template <int registers>
void give_registers(SIMT_HERE) {
    simt::have_registers(registers, place);
}
template <int registers>
void take_registers(SIMT_HERE) {
    simt::have_registers(registers, place);
}

inline void warpgroup_fence(SIMT_HERE) { simt::fence_warpgroup(place); }
inline void warpgroup_commit(SIMT_HERE) { simt::commit_warpgroup(place); }
template <int pending, int sums>
void warpgroup_wait(float (&)[sums], SIMT_HERE) {
    simt::wait_warpgroup(pending, place);
}
template <int pending>
void warpgroup_wait(SIMT_HERE) {
    simt::wait_warpgroup(pending, place);
}

inline void warpgroup_rows_bf16(float (&d)[64], uint64_t a, uint64_t b, bool adds, SIMT_HERE) {
    simt::multiply_warpgroup({d, nullptr, a, b, true, false, adds}, place);
}
inline void warpgroup_rows_f16(float (&d)[64], uint64_t a, uint64_t b, bool adds, SIMT_HERE) {
    simt::multiply_warpgroup({d, nullptr, a, b, false, false, adds}, place);
}
inline void warpgroup_columns_bf16(float (&d)[64], const uint32_t* a, uint64_t b, SIMT_HERE) {
    simt::multiply_warpgroup({d, a, 0, b, true, true, true}, place);
}
inline void warpgroup_columns_f16(float (&d)[64], const uint32_t* a, uint64_t b, SIMT_HERE) {
    simt::multiply_warpgroup({d, a, 0, b, false, true, true}, place);
}
template <int sums>
void warpgroup_add_bf16(float (&d)[sums], const uint32_t* a, uint64_t b, bool adds, SIMT_HERE) {
    simt::multiply_warpgroup({d, a, 0, b, true, false, adds, 2 * sums}, place);
}

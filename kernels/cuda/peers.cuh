// Memory that every GPU of a group has mapped (CUDA IPC): what kernels of different GPUs that meet there have in common.
//
// Each rank has a region: flags, phases and staging areas, one set for each block of a launch, so that block b of one
// rank meets the blocks b of the others and no other blocks.
//
// A meeting is a phase: every rank writes the phase's number into a flag at each of its peers, and waits until all have
// written it at its own. Areas come in two halves, used in turn; no meeting is needed at the end: who writes half h again
// has seen everybody in the phase after, which a rank enters only when it has read half h.

#ifndef SHARDWIRE_PEERS_CUH
#define SHARDWIRE_PEERS_CUH

#include "device.cuh"

#define RANKS_MAX 8

// As kernels/cuda/peers.rs lays a region out.
#define BLOCKS 64
#define AREA_BYTES 65536

// Where the ranks' regions are mapped here.
struct Peers {
    uint64_t regions[RANKS_MAX];
    int rank;
    int ranks;
};

// The block's number, of all blocks of its launch.
__device__ __forceinline__ unsigned own_block() { return blockIdx.z * gridDim.x + blockIdx.x; }

// A block's own part of a rank's region.
__device__ __forceinline__ uint32_t* flags_of(const Peers& peers, int rank) {
    return reinterpret_cast<uint32_t*>(peers.regions[rank]) + own_block() * RANKS_MAX;
}

__device__ __forceinline__ uint32_t* phase_of(const Peers& peers) {
    return reinterpret_cast<uint32_t*>(peers.regions[peers.rank]) + BLOCKS * RANKS_MAX + own_block();
}

template <class T>
__device__ __forceinline__ T* area_of(const Peers& peers, int rank, uint32_t phase) {
    uint64_t areas = peers.regions[rank] + 4 * (BLOCKS * RANKS_MAX + BLOCKS);
    return reinterpret_cast<T*>(areas + (uint64_t(own_block()) * 2 + phase % 2) * AREA_BYTES);
}

// Until every rank's block has come to this phase; what it wrote before is visible then.
__device__ __forceinline__ void meet(const Peers& peers, uint32_t phase) {
    __syncthreads();
    int peer = threadIdx.x;
    if (peer < peers.ranks) {
        store_release_system(flags_of(peers, peer) + peers.rank, phase);
        const uint32_t* flag = flags_of(peers, peers.rank) + peer;
        while (int32_t(load_acquire_system(flag) - phase) < 0) spin_pause();
    }
    __syncthreads();
}

// The sum of all ranks' eight elements at `offset` of their areas.
template <class T>
__device__ __forceinline__ void sum_8(const Peers& peers, uint32_t phase, int offset, float sum[8]) {
    load_8(area_of<T>(peers, 0, phase) + offset, sum);
    for (int rank = 1; rank < peers.ranks; rank++) {
        float own[8];
        load_8(area_of<T>(peers, rank, phase) + offset, own);
        for (int i = 0; i < 8; i++) sum[i] += own[i];
    }
}

// Eight neighbouring elements.
template <class T>
struct alignas(16) Chunk {
    T elements[8];
};

template <class T>
__device__ __forceinline__ void copy_8(T* to, const T* from) {
    *reinterpret_cast<Chunk<T>*>(to) = *reinterpret_cast<const Chunk<T>*>(from);
}

#endif  // SHARDWIRE_PEERS_CUH

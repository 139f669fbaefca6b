// Clusters of blocks, on GPUs of compute capability 9.0 and newer: blocks that run at once, near each other, and read each
// other's shared memory.
//
// A kernel whose text meets in one (`cluster_sync`) is launched so that all blocks of a column in z are a cluster, whose
// numbers are those of blockIdx.z (launch.rs); eight at most, as every such GPU can run.
//
// The stand-in of the tests has its twins in tests/gpu/simt/clusters.hpp.

#ifndef SHARDWIRE_CLUSTERS_CUH
#define SHARDWIRE_CLUSTERS_CUH

#include "device.cuh"

[[maybe_unused]] constexpr int CLUSTER_BLOCKS_MAX = 8;

#ifndef SIMT

// Until all threads of all blocks have come here that have not ended: of a warp all lanes. What they wrote to shared memory
// before can be read after. Who reads another block's must know that it has begun, and that it does not end meanwhile.
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Two neighbouring numbers that lie in the shared memory of the cluster's block `rank` where `own` lies in this one's.
__device__ __forceinline__ float2 load_2_of_block(const float* own, int rank) {
    uint32_t address;
    float2 pair;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(own)), "r"(rank));
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(address) : "memory");
    return pair;
}

#endif  // SIMT

#endif  // SHARDWIRE_CLUSTERS_CUH

// Twins of what clusters.cuh has for a GPU.
#pragma once

#include "fiber.hpp"
#include "vectors.hpp"
#include "warp.hpp"

namespace simt {

// All threads of the cluster's blocks that have not exited.
void meet_cluster(Place place);

// The same place of dynamic shared memory as `own`, in the cluster's block of that number.
const void* shared_of_block(const void* own, size_t bytes, int rank, Place place);

}  // namespace simt

inline void cluster_sync(SIMT_HERE) { simt::meet_cluster(place); }

inline float2 load_2_of_block(const float* own, int rank, SIMT_HERE) {
    return *static_cast<const float2*>(simt::shared_of_block(own, sizeof(float2), rank, place));
}

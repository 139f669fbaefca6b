// Copies of boxes of a matrix to shared memory, which GPUs of compute capability 9.0 and newer make by themselves (the
// tensor memory accelerator, TMA): one thread asks for a whole box.
//
// A copy is asynchronous and belongs to the async proxy, as products of warpgroups do: where threads wrote what it is to
// overwrite, or the barrier that it tells of its bytes, that must have been handed over by `fence_async_proxy`. What it
// brought may be read, by threads and by products, by whoever has waited for the barrier.
//
// The stand-in of the tests has its twins in tests/gpu/simt/tensor_map.hpp.

#ifndef SHARDWIRE_TENSOR_MAP_CUH
#define SHARDWIRE_TENSOR_MAP_CUH

#include "warpgroups.cuh"

// A matrix, how large its boxes are, and how their rows lie in shared memory – of 128 bytes each as `swizzled_piece` has
// them, or one behind the other –, as the driver has encoded it (cuda/tensor_map.rs). Kernels get it as a
// `const __grid_constant__` parameter, for it must not be copied to a thread's own memory.
struct __align__(64) TensorMap {
    uint64_t opaque[16];
};

#ifndef SIMT

// The map itself is on its way, so that the first copy needn't wait for it.
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// The box that begins at this column and row, which may lie outside of the matrix: what does is zero. `shared` is a
// multiple of 1,024, of 128 where rows are not swizzled; the barrier is told of all bytes of the box.
__device__ __forceinline__ void copy_box(void* shared, const TensorMap& map, int column, int row, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
            "r"(shared_address(shared)),
        "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

#endif  // SIMT

#endif  // SHARDWIRE_TENSOR_MAP_CUH

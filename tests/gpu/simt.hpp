// What CUDA device code finds under g++: the stand-in for the compiler's built-ins.
//
// A kernel source is compiled with `-DSIMT -include simt.hpp`. Each CUDA thread of a block is a fiber on the stream's
// thread; the lanes of a warp meet in warp operations, the threads of a block in __syncthreads. What would be undefined
// on a GPU – divergent masks, barriers after an exit, misaligned ldmatrix – ends the process with a message.
//
// Not modelled: warps that truly run at once, weak memory order, bank conflicts, the last bits of fast functions.
#pragma once

#include "simt/fiber.hpp"
#include "simt/vectors.hpp"
#include "simt/arithmetic.hpp"
#include "simt/warp.hpp"
#include "simt/memory.hpp"
#include "simt/kernels.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#undef __restrict__
#define __restrict__

// One copy for each stream's thread: blocks of different streams run at once, blocks of one stream one after another.
#define __shared__ static thread_local

#define threadIdx (simt::self().thread)
#define blockIdx (simt::self().block->index)
#define blockDim (simt::self().block->threads)
#define gridDim (simt::self().block->grid)
constexpr int warpSize = 32;

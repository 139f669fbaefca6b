// From a launch's values to an operation.
#pragma once

#include "operation.hpp"

namespace stand_in {

CUresult check_launch(CUfunction function, const char* name);
// How many clusters of so many blocks run at once: each on multiprocessors of one part of the GPU, as on an H100, whose
// parts have 16 of them or so.
unsigned clusters_at_once(CUfunction function, unsigned blocks, unsigned threads, size_t dynamic_shared);

CUresult make_kernel_operation(const KernelNode& of, void** values, Operation& operation, const char* function);

}  // namespace stand_in

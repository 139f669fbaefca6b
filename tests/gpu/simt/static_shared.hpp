// The static shared memory of kernels, which is NaN when a block begins.
#pragma once

#include "kernels.hpp"

namespace simt {

// Fills what `kernel` has of it, and functions that it may call; on this thread.
void fill_static_shared(const Kernel& kernel);

}  // namespace simt

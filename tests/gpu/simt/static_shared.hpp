// The static shared memory of kernels, which is NaN when a block begins.
#pragma once

#include <vector>

#include "kernels.hpp"

namespace simt {

// Fills what `kernel` has of it, and functions that it may call; on this thread.
void fill_static_shared(const Kernel& kernel);

// Of a block that waits while another has its turn on this thread.
void keep_static_shared(const Kernel& kernel, std::vector<char>& kept);
void restore_static_shared(const Kernel& kernel, const std::vector<char>& kept);

}  // namespace simt

// What a product asks of its addresses; where it is not given, the answer to the caller.
#pragma once

#include "problem.hpp"

namespace stand_in {

// A matrix lies within memory of a device, and is aligned as was promised when the algorithm was chosen.
cublasStatus_t check_matrix(const Layout& layout, const void* at, uint32_t alignment, char name, const char* function);

cublasStatus_t check_bias(const Problem& problem, const char* function);

cublasStatus_t check_workspace(const Algorithm& algorithm, const void* at, size_t bytes, const char* function);

// Who reads a matrix while it is written gets anything; C may be D, but not half of it.
cublasStatus_t check_overlaps(const Product& product, size_t workspace_bytes, const char* function);

}  // namespace stand_in

// From a launch's values to an operation.
#pragma once

#include "operation.hpp"

namespace stand_in {

CUresult check_launch(CUfunction function, const char* name);
CUresult make_kernel_operation(const KernelNode& of, void** values, Operation& operation, const char* function);

}  // namespace stand_in

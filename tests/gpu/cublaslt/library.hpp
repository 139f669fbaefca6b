// The vendor's own header, so that a wrong signature does not compile. Only what it declares is exported.
#pragma once

#pragma GCC visibility push(default)
#include <cublasLt.h>
#pragma GCC visibility pop

// What the library complains of, and how it speaks with the stand-in driver.
#pragma once

#include "../cuda/driver_api.hpp"
#include "library.hpp"

extern "C" {
// Of the stand-in driver.
void stand_in_note_call(const char* function);
bool stand_in_is_device_memory(const void* address, size_t bytes);
CUresult stand_in_refuse_in_capture(const char* function);
CUresult stand_in_enqueue(CUstream stream, const char* name, void (*run)(void*), void* data, void (*release)(void*));
}

namespace stand_in {

// The caller did something wrong, and is told by `status`.
__attribute__((format(printf, 3, 4))) cublasStatus_t refuse(cublasStatus_t status, const char* function,
                                                            const char* format, ...);

}  // namespace stand_in

#define REFUSE(status, ...) stand_in::refuse(CUBLAS_STATUS_##status, __func__, __VA_ARGS__)

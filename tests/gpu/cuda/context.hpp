// Devices' contexts, and which one a thread speaks to.
#pragma once

#include "driver_api.hpp"
#include "report.hpp"

struct CUctx_st {
    int device;
    int retained = 0;
    unsigned lives = 0;  // how often it was given up by all: what was made in an earlier life is gone
    unsigned flags = 0;
    CUstream legacy = nullptr;
};

namespace stand_in {

bool initialized();
CUcontext current_context();
CUcontext primary_context(int device);
bool is_device(CUdevice device);

// Whether this thread is within a function that the device called: nothing may be asked of the driver there.
extern thread_local bool in_host_function;

// What holds for every call: null, or what to answer.
CUresult refuse_always(const char* function);

}  // namespace stand_in

#define CALL(...)                                             \
    stand_in::note_call(__func__ __VA_OPT__(, ) __VA_ARGS__); \
    if (CUresult refused = stand_in::refuse_always(__func__)) return refused

#define REFUSE(result, ...) stand_in::refuse(result, __func__, __VA_ARGS__)

// For calls that need a context: it is called `context`.
#define CALL_IN_CONTEXT(...)                                          \
    CALL(__VA_ARGS__);                                                \
    [[maybe_unused]] CUcontext context = stand_in::current_context(); \
    if (!context) return REFUSE(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread")

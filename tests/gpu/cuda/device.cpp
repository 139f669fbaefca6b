// Devices and contexts.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "capture.hpp"
#include "context.hpp"
#include "memory.hpp"
#include "settings.hpp"
#include "stream.hpp"

namespace stand_in {

namespace {

std::atomic<bool> is_initialized{false};
std::mutex contexts_lock;
thread_local std::vector<CUcontext> current;  // the last one counts

int attribute_of(CUdevice_attribute attribute, CUdevice device) {
    static const std::map<CUdevice_attribute, int> known = {
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 * 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, int(simt::SHARED_MAX)},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 * 1024},
        {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 * 1024},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1'000'000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1'000'000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
        {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0},
        {CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512},
        {CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 0},
    };
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return settings().capability_major;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return settings().capability_minor;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return settings().multiprocessors;
        case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return device + 1;
        default: break;
    }
    auto found = known.find(attribute);
    return found == known.end() ? 0 : found->second;
}

}  // namespace

thread_local bool in_host_function = false;

bool initialized() { return is_initialized; }

bool is_device(CUdevice device) { return device >= 0 && device < settings().gpus; }

CUcontext current_context() { return current.empty() ? nullptr : current.back(); }

CUcontext primary_context(int device) {
    static std::map<int, CUcontext>& all = *new std::map<int, CUcontext>;
    CUcontext& context = all[device];
    if (!context) {
        context = new CUctx_st{device};
        context->legacy = make_stream(context, CU_STREAM_DEFAULT, 0);
        context->legacy->legacy = true;
    }
    return context;
}

CUresult refuse_always(const char* function) {
    if (in_host_function)
        return refuse(CUDA_ERROR_NOT_PERMITTED, function, "functions that a stream calls may not call the driver");
    if (!initialized()) return refuse(CUDA_ERROR_NOT_INITIALIZED, function, "cuInit was not called");
    return CUDA_SUCCESS;
}

}  // namespace stand_in

using namespace stand_in;

#define CHECK_DEVICE(device) \
    if (!is_device(device)) return REFUSE(CUDA_ERROR_INVALID_DEVICE, "there is no device %d", device)

extern "C" {

CUresult cuInit(unsigned flags) {
    note_call(__func__);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (settings().gpus < 1) return CUDA_ERROR_NO_DEVICE;
    is_initialized = true;
    explain_faults();
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
    note_call(__func__);
    *version = settings().driver_version;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    CALL();
    *count = settings().gpus;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    CALL("%d", ordinal);
    CHECK_DEVICE(ordinal);
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    CALL();
    CHECK_DEVICE(device);
    snprintf(name, size_t(length), "Stand-in GPU %d", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
    CALL();
    CHECK_DEVICE(device);
    memset(uuid, 0x5a, sizeof *uuid);
    uuid->bytes[15] = char(device);
    return CUDA_SUCCESS;
}

#undef cuDeviceGetUuid
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
    CALL();
    CHECK_DEVICE(device);
    snprintf(id, size_t(length), "0000:%02x:00.0", device + 1);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
    CALL();
    CHECK_DEVICE(device);
    size_t free_bytes;
    memory_info(device, free_bytes, *bytes);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    CALL("%d", int(attribute));
    CHECK_DEVICE(device);
    *value = attribute_of(attribute, device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
    CALL("%d to %d", device, peer);
    CHECK_DEVICE(device);
    CHECK_DEVICE(peer);
    *can = device != peer;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice device, CUdevice peer) {
    CALL("%d", int(attribute));
    CHECK_DEVICE(device);
    CHECK_DEVICE(peer);
    bool supported = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED ||
                     attribute == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
    *value = supported && device != peer;
    return CUDA_SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned) {
    CALL_IN_CONTEXT("device %d", peer ? peer->device : -1);
    if (!peer || peer->device == context->device)
        return REFUSE(CUDA_ERROR_INVALID_DEVICE, "a context is no peer of itself");
    return CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext) {
    CALL_IN_CONTEXT();
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    CALL("device %d", device);
    CHECK_DEVICE(device);
    std::lock_guard lock(contexts_lock);
    *context = primary_context(device);
    (*context)->retained++;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    CALL("device %d", device);
    CHECK_DEVICE(device);
    CUcontext context;
    {
        std::lock_guard lock(contexts_lock);
        context = primary_context(device);
        if (context->retained == 0) return REFUSE(CUDA_ERROR_INVALID_CONTEXT, "the context is not retained");
        if (--context->retained > 0) return CUDA_SUCCESS;
        context->lives++;
    }
    wait_for_all(context);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    CALL("device %d", device);
    CHECK_DEVICE(device);
    std::lock_guard lock(contexts_lock);
    *flags = primary_context(device)->flags;
    *active = primary_context(device)->retained > 0;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
    CALL("device %d, %#x", device, flags);
    CHECK_DEVICE(device);
    std::lock_guard lock(contexts_lock);
    primary_context(device)->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    CALL();
    *context = current_context();
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    CALL("device %d", context ? context->device : -1);
    if (!current.empty()) current.pop_back();
    if (context) current.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    CALL();
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    current.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* popped) {
    CALL_IN_CONTEXT();
    if (popped) *popped = context;
    current.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    CALL_IN_CONTEXT();
    *device = context->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned* flags) {
    CALL_IN_CONTEXT();
    *flags = context->flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned flags) {
    CALL_IN_CONTEXT("%#x", flags);
    context->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext, unsigned* version) {
    CALL();
    *version = 3020;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    CALL_IN_CONTEXT();
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for_all(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    CALL_IN_CONTEXT();
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetLimit(size_t* value, CUlimit limit) {
    CALL_IN_CONTEXT("%d", int(limit));
    switch (limit) {
        case CU_LIMIT_STACK_SIZE: *value = 1024; return CUDA_SUCCESS;
        case CU_LIMIT_PRINTF_FIFO_SIZE: *value = 1 << 20; return CUDA_SUCCESS;
        case CU_LIMIT_MALLOC_HEAP_SIZE: *value = 8 << 20; return CUDA_SUCCESS;
        case CU_LIMIT_MAX_L2_FETCH_GRANULARITY: *value = 64; return CUDA_SUCCESS;
        case CU_LIMIT_PERSISTING_L2_CACHE_SIZE: *value = 0; return CUDA_SUCCESS;
        default: return CUDA_ERROR_UNSUPPORTED_LIMIT;
    }
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    CALL_IN_CONTEXT("%d = %zu", int(limit), value);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache* config) {
    CALL_IN_CONTEXT();
    *config = CU_FUNC_CACHE_PREFER_NONE;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache) {
    CALL_IN_CONTEXT();
    return CUDA_SUCCESS;
}

CUresult cuProfilerStart() {
    CALL();
    return CUDA_SUCCESS;
}

CUresult cuProfilerStop() {
    CALL();
    return CUDA_SUCCESS;
}
}

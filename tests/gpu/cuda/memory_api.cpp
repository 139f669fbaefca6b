// The calls that take and give memory.
#include <cstring>

#include "capture.hpp"
#include "context.hpp"
#include "memory.hpp"
#include "settings.hpp"
#include "stream.hpp"

using namespace stand_in;

// A pool sets nothing aside: its numbers are those of the device.
struct CUmemPoolHandle_st {
    int device;
    cuuint64_t release_threshold = 0;
};

namespace {

CUmemoryPool default_pool(int device) {
    static std::vector<CUmemPoolHandle_st>& pools = *[] {
        auto* made = new std::vector<CUmemPoolHandle_st>;
        for (int device = 0; device < settings().gpus; device++) made->push_back({device});
        return made;
    }();
    return &pools[size_t(device)];
}

CUresult allocate_on_stream(CUdeviceptr* address, size_t bytes, int device, CUstream handle, const char* function) {
    CUstream stream = stream_of(handle, function);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!bytes) return refuse(CUDA_ERROR_INVALID_VALUE, function, "0 bytes are no allocation");
    {
        std::lock_guard lock(capture_lock());
        if (stream->capture) return refuse_captured(stream, function);
    }
    uintptr_t at;
    CUresult result = allocate(device, bytes, MemoryKind::Pool, at);
    if (result == CUDA_SUCCESS) *address = at;
    return result;
}

}  // namespace

extern "C" {

CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
    CALL_IN_CONTEXT();
    memory_info(context->device, *free_bytes, *total_bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    if (!bytes) return REFUSE(CUDA_ERROR_INVALID_VALUE, "0 bytes are no allocation");
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    uintptr_t at;
    CUresult result = allocate(context->device, bytes, MemoryKind::Device, at);
    if (result == CUDA_SUCCESS) *address = at;
    return result;
}

CUresult cuMemFree(CUdeviceptr address) {
    CALL_IN_CONTEXT("%#llx", address);
    if (!address) return CUDA_SUCCESS;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    mark_freeing(address, __func__);
    wait_for_all(context);
    release(address, __func__, false);
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return allocate_on_stream(address, bytes, context->device, stream, __func__);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return allocate_on_stream(address, bytes, pool->device, stream, __func__);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    CALL_IN_CONTEXT("%#llx", address);
    if (!address) return CUDA_SUCCESS;
    CUstream stream = stream_of(handle, __func__);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_captured(stream, __func__)) return refused;
    mark_freeing(address, __func__);
    const char* function = __func__;
    return enqueue(stream, {OperationKind::Free, "free memory", [=] { release(address, function, false); }}, __func__);
}

CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
    CALL_IN_CONTEXT("%zu, flags %u", bytes, flags);
    if (!bytes) return REFUSE(CUDA_ERROR_INVALID_VALUE, "0 bytes are no allocation");
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    uintptr_t at;
    CUresult result = allocate_host(bytes, flags, at);
    if (result == CUDA_SUCCESS) *address = reinterpret_cast<void*>(at);
    return result;
}

CUresult cuMemAllocHost(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

CUresult cuMemFreeHost(void* address) {
    CALL_IN_CONTEXT("%p", address);
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for_all(context);
    release(reinterpret_cast<uintptr_t>(address), __func__, true);
    return CUDA_SUCCESS;
}

CUresult cuMemHostRegister(void* address, size_t bytes, unsigned flags) {
    CALL_IN_CONTEXT("%p, %zu, flags %u", address, bytes, flags);
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    return register_host(reinterpret_cast<uintptr_t>(address), bytes, flags);
}

CUresult cuMemHostUnregister(void* address) {
    CALL_IN_CONTEXT("%p", address);
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for_all(context);
    return unregister_host(reinterpret_cast<uintptr_t>(address));
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr* device_address, void* address, unsigned) {
    CALL_IN_CONTEXT("%p", address);
    if (!is_pinned(address, 1, __func__)) return REFUSE(CUDA_ERROR_INVALID_VALUE, "this is not pinned memory");
    *device_address = reinterpret_cast<CUdeviceptr>(address);
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned* flags, void* address) {
    CALL_IN_CONTEXT("%p", address);
    Allocation found;
    if (!find(reinterpret_cast<uintptr_t>(address), 1, found, __func__)) return CUDA_ERROR_INVALID_VALUE;
    *flags = found.flags;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    CALL_IN_CONTEXT("%#llx", address);
    Allocation found;
    if (!find(address, 1, found, __func__)) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = found.address;
    if (bytes) *bytes = found.bytes;
    return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
    CALL_IN_CONTEXT("%d of %#llx", int(attribute), address);
    Allocation found;
    if (!find(address, 1, found, __func__)) return CUDA_ERROR_INVALID_VALUE;
    bool host = found.kind == MemoryKind::Host || found.kind == MemoryKind::Registered;
    switch (attribute) {
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            *static_cast<unsigned*>(value) = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_CONTEXT:
            *static_cast<CUcontext*>(value) = host ? context : primary_context(found.device);
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr*>(value) = address; return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_HOST_POINTER:
            if (!host) return CUDA_ERROR_INVALID_VALUE;
            *static_cast<void**>(value) = reinterpret_cast<void*>(address);
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            *static_cast<int*>(value) = host ? context->device : found.device;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<bool*>(value) = false; return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            *static_cast<CUdeviceptr*>(value) = found.address;
            return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_RANGE_SIZE: *static_cast<size_t*>(value) = found.bytes; return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_MAPPED: *static_cast<int*>(value) = 1; return CUDA_SUCCESS;
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
            *static_cast<int*>(value) = found.kind == MemoryKind::Device;
            return CUDA_SUCCESS;
        default: return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "this attribute is not modelled: %d", int(attribute));
    }
}

CUresult cuPointerSetAttribute(const void*, CUpointer_attribute attribute, CUdeviceptr) {
    CALL_IN_CONTEXT("%d", int(attribute));
    return CUDA_SUCCESS;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
    CALL_IN_CONTEXT("%#llx", address);
    static_assert(sizeof(SharedHandle) <= sizeof(CUipcMemHandle));
    SharedHandle shared;
    CUresult result = export_allocation(address, shared);
    if (result != CUDA_SUCCESS) return result;
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &shared, sizeof shared);
    return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags) {
    CALL_IN_CONTEXT("flags %u", flags);
    if (flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "no such flags: %#x", flags);
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    SharedHandle shared;
    memcpy(&shared, &handle, sizeof shared);
    uintptr_t at;
    CUresult result = import_allocation(shared, at);
    if (result == CUDA_SUCCESS) *address = at;
    return result;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
    CALL_IN_CONTEXT("%#llx", address);
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for_all(context);
    return close_imported(address);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
    CALL("device %d", device);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = default_pool(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }

CUresult cuDeviceSetMemPool(CUdevice device, CUmemoryPool) {
    CALL("device %d", device);
    return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
    CALL("device %d", properties->location.id);
    if (!is_device(properties->location.id)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = new CUmemPoolHandle_st{properties->location.id};
    return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    CALL();
    if (pool == default_pool(pool->device))
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "the default pool can't be destroyed");
    delete pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) {
    CALL();
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
    CALL("%d", int(attribute));
    if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) pool->release_threshold = *static_cast<cuuint64_t*>(value);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
    CALL("%d", int(attribute));
    size_t free_bytes, total_bytes;
    memory_info(pool->device, free_bytes, total_bytes);
    switch (attribute) {
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *static_cast<cuuint64_t*>(value) = pool->release_threshold; break;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *static_cast<cuuint64_t*>(value) = total_bytes - free_bytes; break;
        default: *static_cast<int*>(value) = 1;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool, const CUmemAccessDesc*, size_t) {
    CALL();
    return CUDA_SUCCESS;
}
}

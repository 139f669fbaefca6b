// The calls that copy and set memory.
#include <algorithm>
#include <cstring>

#include "capture.hpp"
#include "context.hpp"
#include "memory.hpp"
#include "stream.hpp"

using namespace stand_in;

namespace {

enum class Side { Host, Device, Either };

struct Range {
    Side side;
    uintptr_t address;
    size_t bytes;
};

const char* word(Side side) { return side == Side::Device ? "device" : "host"; }

// Whether it is where the caller says.
CUresult check(Range range, const char* function) {
    if (range.side == Side::Either) return CUDA_SUCCESS;
    Allocation found;
    bool known = find(range.address, range.bytes, found, function);
    if (known && found.freeing) stop("%s: [%#zx, +%zu) was freed before", function, range.address, range.bytes);
    bool device = known && found.kind != MemoryKind::Host && found.kind != MemoryKind::Registered;
    // Pinned memory has one address on both sides.
    bool right = range.side == Side::Device ? known : !device;
    if (right) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_INVALID_VALUE, function, "[%#zx, +%zu) is not within an allocation on the %s",
                  range.address, range.bytes, word(range.side));
}

bool is_pageable(Range range, const char* function) {
    if (range.side == Side::Device) return false;
    Allocation found;
    return !find(range.address, range.bytes, found, function);
}

// When it is done, memory may have been freed that was there when it was enqueued.
void recheck(Range range) {
    Allocation found;
    if (range.side == Side::Device && !find(range.address, range.bytes, found, "a copy on its stream")) {
        stop("a copy on its stream: [%#zx, +%zu) is gone", range.address, range.bytes);
    }
}

const char* direction(Range to, Range from) {
    if (to.side == from.side) return to.side == Side::Device ? "device to device" : "any to any";
    return to.side == Side::Device ? "host to device" : "device to host";
}

struct Copy {
    Range to, from;
    size_t width, height = 1;
    size_t to_pitch = 0, from_pitch = 0;
};

void perform(const Copy& copy, const void* from) {
    for (size_t row = 0; row < copy.height; row++) {
        char* to = reinterpret_cast<char*>(copy.to.address) + row * copy.to_pitch;
        memmove(to, static_cast<const char*>(from) + row * copy.from_pitch, copy.width);
    }
}

// Pageable memory is taken over before a copy to the device returns; a copy to it returns when it is done.
CUresult copy_on_stream(const Copy& copy, CUstream handle, const char* function) {
    CUstream stream = stream_of(handle, function);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (!copy.width || !copy.height) return CUDA_SUCCESS;
    if (CUresult refused = check(copy.to, function)) return refused;
    if (CUresult refused = check(copy.from, function)) return refused;
    count(Counter::Copies, direction(copy.to, copy.from));
    count(Counter::CopiedBytes, direction(copy.to, copy.from), copy.width * copy.height);
    std::unique_lock lock(capture_lock());
    bool captured = stream->capture;
    lock.unlock();
    auto source = reinterpret_cast<const char*>(copy.from.address);
    if (!captured && is_pageable(copy.from, function)) {
        auto staged = std::make_shared<std::vector<char>>(source, source + copy.from.bytes);
        auto run = [=] {
            recheck(copy.to);
            perform(copy, staged->data());
        };
        return enqueue(stream, {OperationKind::Copy, function, run}, function);
    }
    auto run = [=] {
        recheck(copy.to);
        recheck(copy.from);
        perform(copy, source);
    };
    CUresult result = enqueue(stream, {OperationKind::Copy, function, run}, function);
    if (result == CUDA_SUCCESS && !captured && is_pageable(copy.to, function)) wait_for(stream);
    return result;
}

CUresult copy_now(const Copy& copy, const char* function) {
    if (CUresult refused = refuse_in_capture(function)) return refused;
    CUresult result = copy_on_stream(copy, nullptr, function);
    if (result == CUDA_SUCCESS) wait_for(current_context()->legacy);
    return result;
}

Copy flat(Side to_side, CUdeviceptr to, Side from_side, CUdeviceptr from, size_t bytes) {
    return {{to_side, uintptr_t(to), bytes}, {from_side, uintptr_t(from), bytes}, bytes};
}

CUdeviceptr address_of(const void* host) { return reinterpret_cast<CUdeviceptr>(host); }

template <class T>
CUresult set(CUdeviceptr to, T value, size_t count_of, CUstream handle, const char* function) {
    CUstream stream = stream_of(handle, function);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (to % sizeof(T)) return refuse(CUDA_ERROR_INVALID_VALUE, function, "%#llx is not aligned to %zu", to, sizeof(T));
    if (!count_of) return CUDA_SUCCESS;
    Range range{Side::Device, uintptr_t(to), count_of * sizeof(T)};
    if (CUresult refused = check(range, function)) return refused;
    count(Counter::Copies, "set");
    count(Counter::CopiedBytes, "set", range.bytes);
    auto run = [=] {
        recheck(range);
        if (value == 0) return set_to_zero(range.address, range.bytes);
        T* at = reinterpret_cast<T*>(to);
        std::fill(at, at + count_of, value);
    };
    return enqueue(stream, {OperationKind::Set, function, run}, function);
}

template <class T>
CUresult set_now(CUdeviceptr to, T value, size_t count_of, const char* function) {
    if (CUresult refused = refuse_in_capture(function)) return refused;
    // As the real one: to the host it returns at once.
    return set(to, value, count_of, nullptr, function);
}

CUresult described(const CUDA_MEMCPY2D* of, Copy& copy, const char* function) {
    auto range = [&](CUmemorytype type, const void* host, CUdeviceptr device, size_t pitch, size_t x,
                     size_t y) -> Range {
        CUdeviceptr start = (type == CU_MEMORYTYPE_HOST ? address_of(host) : device) + y * pitch + x;
        size_t bytes = of->Height ? (of->Height - 1) * pitch + of->WidthInBytes : 0;
        Side side = type == CU_MEMORYTYPE_HOST     ? Side::Host
                    : type == CU_MEMORYTYPE_DEVICE ? Side::Device
                                                   : Side::Either;
        return {side, uintptr_t(start), bytes};
    };
    if (of->srcMemoryType == CU_MEMORYTYPE_ARRAY || of->dstMemoryType == CU_MEMORYTYPE_ARRAY) {
        return refuse(CUDA_ERROR_NOT_SUPPORTED, function, "arrays are not modelled");
    }
    copy.to_pitch = of->dstPitch ? of->dstPitch : of->WidthInBytes;
    copy.from_pitch = of->srcPitch ? of->srcPitch : of->WidthInBytes;
    if (of->Height > 1 && (copy.to_pitch < of->WidthInBytes || copy.from_pitch < of->WidthInBytes)) {
        return refuse(CUDA_ERROR_INVALID_VALUE, function, "rows overlap: the pitch is less than their width");
    }
    copy.to = range(of->dstMemoryType, of->dstHost, of->dstDevice, copy.to_pitch, of->dstXInBytes, of->dstY);
    copy.from = range(of->srcMemoryType, of->srcHost, of->srcDevice, copy.from_pitch, of->srcXInBytes, of->srcY);
    copy.width = of->WidthInBytes;
    copy.height = of->Height;
    return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_now(flat(Side::Device, to, Side::Host, address_of(from), bytes), __func__);
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_now(flat(Side::Host, address_of(to), Side::Device, from, bytes), __func__);
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_now(flat(Side::Device, to, Side::Device, from, bytes), __func__);
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_now(flat(Side::Either, to, Side::Either, from, bytes), __func__);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_on_stream(flat(Side::Device, to, Side::Host, address_of(from), bytes), stream, __func__);
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_on_stream(flat(Side::Host, address_of(to), Side::Device, from, bytes), stream, __func__);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_on_stream(flat(Side::Device, to, Side::Device, from, bytes), stream, __func__);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_on_stream(flat(Side::Either, to, Side::Either, from, bytes), stream, __func__);
}

CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_now(flat(Side::Device, to, Side::Device, from, bytes), __func__);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    CALL_IN_CONTEXT("%zu", bytes);
    return copy_on_stream(flat(Side::Device, to, Side::Device, from, bytes), stream, __func__);
}

CUresult cuMemcpy2D(const CUDA_MEMCPY2D* of) {
    CALL_IN_CONTEXT("%zu x %zu", of->WidthInBytes, of->Height);
    Copy copy{};
    if (CUresult refused = described(of, copy, __func__)) return refused;
    return copy_now(copy, __func__);
}

CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D* of) { return cuMemcpy2D(of); }

CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D* of, CUstream stream) {
    CALL_IN_CONTEXT("%zu x %zu", of->WidthInBytes, of->Height);
    Copy copy{};
    if (CUresult refused = described(of, copy, __func__)) return refused;
    return copy_on_stream(copy, stream, __func__);
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count_of) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set_now(to, value, count_of, __func__);
}

CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count_of) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set_now(to, value, count_of, __func__);
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t count_of) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set_now(to, value, count_of, __func__);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count_of, CUstream stream) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set(to, value, count_of, stream, __func__);
}

CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count_of, CUstream stream) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set(to, value, count_of, stream, __func__);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count_of, CUstream stream) {
    CALL_IN_CONTEXT("%zu", count_of);
    return set(to, value, count_of, stream, __func__);
}
}

// The memory of devices, and host memory that they may reach.
//
// An allocation has pages of its own between two that nobody may touch, and ends at the second one as closely as its
// alignment allows. What lies around it within its pages is a pattern that is looked at when it is freed (under
// AddressSanitizer it is poison). Its addresses are not given out again soon, so that use after free is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "driver_api.hpp"

namespace stand_in {

enum class MemoryKind { Device, Pool, Host, Registered, Imported };

struct Allocation {
    uintptr_t address;
    size_t bytes;
    MemoryKind kind;
    int device;
    char* pages;  // without the two around them
    size_t page_bytes;
    size_t offset;         // in the device's file
    bool freeing = false;  // a stream will free it when it comes to that
    unsigned flags = 0;    // of host memory
    int opened = 0;        // how often an imported one was
};

// What another process needs to reach an allocation.
struct SharedHandle {
    uint64_t magic;
    int process;
    int file;
    int device;
    size_t offset;
    size_t page_bytes;
    size_t start;  // of the allocation within its pages
    size_t bytes;
};

CUresult allocate(int device, size_t bytes, MemoryKind kind, uintptr_t& address);
CUresult allocate_host(size_t bytes, unsigned flags, uintptr_t& address);
CUresult register_host(uintptr_t address, size_t bytes, unsigned flags);

// Ends the process if there is no such allocation: it was freed before, or never made.
void release(uintptr_t address, const char* function, bool host);
CUresult unregister_host(uintptr_t address);
// From now on only operations that were enqueued before may use it.
void mark_freeing(uintptr_t address, const char* function);

// The allocation that has all these bytes, if there is one. Freed ones end the process.
bool find(uintptr_t address, size_t bytes, Allocation& found, const char* function);
bool is_device_memory(uintptr_t address, size_t bytes, const char* function);
bool is_pinned(const void* address, size_t bytes, const char* function);

CUresult export_allocation(uintptr_t address, SharedHandle& handle);
CUresult import_allocation(const SharedHandle& handle, uintptr_t& address);
CUresult close_imported(uintptr_t address);

// Sets device memory to zero; large runs give their pages back instead, so that a cache costs nothing before it is used.
void set_to_zero(uintptr_t address, size_t bytes);

void memory_info(int device, size_t& free_bytes, size_t& total_bytes);

// A kernel that touches what it must not is told of by what lies there.
void explain_faults();

}  // namespace stand_in

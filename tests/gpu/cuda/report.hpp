// What the stand-in tells: complaints on stderr, a trace of all calls, and how often each was made.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>

#include "../simt/kernels.hpp"
#include "../simt/traffic.hpp"
#include "driver_api.hpp"

namespace stand_in {

// A call to the driver has begun.
void note_call(const char* function);
__attribute__((format(printf, 2, 3))) void note_call(const char* function, const char* format, ...);

// The caller did something wrong, and is told by `result`.
__attribute__((format(printf, 3, 4))) CUresult refuse(CUresult result, const char* function, const char* format, ...);

// Something is so wrong that going on would hide it.
[[noreturn]] __attribute__((format(printf, 1, 2))) void stop(const char* format, ...);

enum class Counter { Calls, Kernels, Collectives, Copies, CopiedBytes };

void count(Counter counter, const char* name, uint64_t by = 1);
// A kernel has run.
void note_kernel(const char* name, const simt::Traffic& traffic);
void note_collective(const char* name, size_t bytes);
// Whether a kernel is to be computed: all are, unless the environment says otherwise.
bool shall_run(const simt::Kernel& kernel, int device);
// Allocations from now on are counted as late.
void note_graph_launch();
// A stream has come to it.
void note_graph_begins();
void note_allocation(size_t bytes);

// For a process that is ended by a signal: what waits for the device calls this now and then.
void write_counts_sometimes();
void write_counts();

}  // namespace stand_in

extern "C" {
// For the companions of the driver, libnccl say.
__attribute__((visibility("default"))) void stand_in_note_call(const char* function);
__attribute__((visibility("default"))) void stand_in_count_collective(const char* name, size_t bytes);
// What the last kernel that ran has read and written.
__attribute__((visibility("default"))) simt::Traffic stand_in_last_traffic();
// Whether so many bytes are a device's.
__attribute__((visibility("default"))) bool stand_in_is_device_memory(const void* address, size_t bytes);
}

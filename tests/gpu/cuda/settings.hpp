// What the environment tells the stand-in.
#pragma once

#include <cstddef>
#include <string>

namespace stand_in {

struct Settings {
    int gpus;              // STAND_IN_GPUS: how many there are
    unsigned seed;         // STAND_IN_SEED: the order of blocks, warps, lanes and of a graph's nodes
    int delay_us;          // STAND_IN_DELAY_US: at most so long does an operation wait before it begins
    size_t memory;         // STAND_IN_MEMORY: bytes of a device; K, M and G may follow the number
    size_t cache;          // STAND_IN_CACHE: bytes of what was touched last, where that is counted
    int capability_major;  // STAND_IN_CAPABILITY
    int capability_minor;
    int multiprocessors;      // STAND_IN_MULTIPROCESSORS
    int driver_version;       // STAND_IN_DRIVER: 12040 is CUDA 12.4, and reads no later PTX
    std::string trace_path;   // STAND_IN_TRACE: every call is appended there
    bool sample;              // STAND_IN_KERNELS=sample: most do nothing
    std::string counts_path;  // STAND_IN_COUNT: what was called how often, as JSON; %p is the process
};

const Settings& settings();

}  // namespace stand_in

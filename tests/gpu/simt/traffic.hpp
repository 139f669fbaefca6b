// What a launch reads and writes of the devices' memory, where the kernels were compiled to tell (--count).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

#ifdef STAND_IN_COUNTS
constexpr bool COUNTS = true;
#else
constexpr bool COUNTS = false;
#endif

// Where all memory of devices is mapped, so that one comparison tells an address of it: a range for each device, and
// the last one for memory of other processes.
constexpr uintptr_t DEVICE_SPACE = uintptr_t(1) << 44;
constexpr int DEVICE_BITS = 38;
constexpr size_t DEVICE_RANGES = 16;
constexpr int OTHER_PROCESSES = DEVICE_RANGES - 1;

// What a GPU fetches at least.
constexpr int SECTOR_BITS = 5;
constexpr size_t SECTOR_BYTES = size_t(1) << SECTOR_BITS;

struct Traffic {
    int device = 0;

    // Sectors, each once: what a launch moves between memory and a cache that forgets nothing before it ends. What it
    // has written itself it need not read.
    uint64_t read_sectors = 0;
    uint64_t written_sectors = 0;

    // Of those, what a device's cache still had from the launches before: read without asking memory, or written where
    // what was written before had not gone to memory yet.
    uint64_t kept_sectors = 0;

    // The same of each block for itself: what at least has to come out of the cache that all blocks share, were each
    // block's own to forget nothing before the block ends.
    uint64_t block_sectors = 0;
    uint32_t block = 0;  // the running one's number, of all that ever ran; from 1

    size_t cache_sectors = 0;

    // All that threads ask for, bytes.
    uint64_t asked_to_read = 0;
    uint64_t asked_to_write = 0;

    // The same of other devices' memory.
    uint64_t peer_read = 0;
    uint64_t peer_written = 0;

    // Additions and multiplications within tensor-core products.
    uint64_t tensor_operations = 0;

    // Words of the tables of sectors that must be zero again.
    std::vector<size_t> touched;
};

// Begins a launch's count on this device, whose cache holds so many bytes: those that were touched last.
void begin_traffic(Traffic& traffic, int device, size_t cache_bytes);
// Another block's number.
uint32_t count_block();
void end_traffic(Traffic& traffic);

void note_read(const void* from, size_t bytes);

}  // namespace simt

// The calls that g++ puts before each access to memory with -fsanitize=thread, put to another use: they count.
//
// Nothing of ThreadSanitizer's own library is here. Only kernels are compiled so, and they run on fibers.
#include "traffic.hpp"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#include "fiber.hpp"

namespace simt {

namespace {

constexpr size_t SPACE_BYTES = DEVICE_RANGES << DEVICE_BITS;
constexpr int WORD_BITS = 6;

constexpr size_t SECTORS = SPACE_BYTES >> SECTOR_BITS;

// Of the sectors of all devices; nothing is taken from the machine for those that nobody touches.
struct Sectors {
    uint64_t* read;  // a bit for each
    uint64_t* written;
    uint32_t* block;  // the last one that touched it: twice its number, and one if it wrote
    uint32_t* cached;  // when it was last touched by another launch: twice the time, and one if memory has it differently
};

Sectors sectors;

// How many sectors were touched, each once in a launch.
uint32_t now = 0;

void* reserve(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (at == MAP_FAILED) {
        perror("stand-in gpu: no address space to count in");
        abort();
    }
    return at;
}

Sectors reserve_sectors() {
    auto bits = [] { return static_cast<uint64_t*>(reserve(SECTORS / 8)); };
    auto words = [] { return static_cast<uint32_t*>(reserve(SECTORS * sizeof(uint32_t))); };
    return {bits(), bits(), words(), words()};
}

// The first access of a launch to a sector: it is in the cache from now on. What was touched longest ago made room.
void note_cached(Traffic& traffic, uint32_t& cached, bool writes) {
    bool has_it = cached && now - (cached >> 1) < traffic.cache_sectors;
    if (has_it && !writes) traffic.kept_sectors++;
    cached = ++now << 1 | (has_it && cached & 1);
}

void note_cached_write(Traffic& traffic, uint32_t& cached) {
    if (cached & 1) traffic.kept_sectors++;
    cached |= 1;
}

void note_sector(Traffic& traffic, size_t sector, bool writes) {
    size_t word = sector >> WORD_BITS;
    uint64_t bit = uint64_t(1) << (sector & ((1 << WORD_BITS) - 1));
    uint64_t read = sectors.read[word], written = sectors.written[word];
    if (!read && !written) traffic.touched.push_back(word);
    uint32_t& block = sectors.block[sector];
    bool is_first = block >> 1 != traffic.block;
    if (is_first || (writes && !(block & 1))) {
        block = traffic.block << 1 | (writes || (!is_first && block & 1));
        traffic.block_sectors++;
    }
    uint32_t& cached = sectors.cached[sector];
    if (!((read | written) & bit)) note_cached(traffic, cached, writes);
    if (writes) {
        if (written & bit) return;
        note_cached_write(traffic, cached);
        sectors.written[word] = written | bit;
        traffic.written_sectors++;
    } else {
        if ((read | written) & bit) return;
        sectors.read[word] = read | bit;
        traffic.read_sectors++;
    }
}

__attribute__((noinline)) void note_device(size_t offset, size_t bytes, bool writes) {
    Traffic& traffic = *self().block->traffic;
    if (int(offset >> DEVICE_BITS) != traffic.device) {
        (writes ? traffic.peer_written : traffic.peer_read) += bytes;
        return;
    }
    (writes ? traffic.asked_to_write : traffic.asked_to_read) += bytes;
    size_t first = offset >> SECTOR_BITS, last = (offset + bytes - 1) >> SECTOR_BITS;
    for (size_t sector = first; sector <= last; sector++) note_sector(traffic, sector, writes);
}

inline __attribute__((always_inline)) void note(const volatile void* address, size_t bytes, bool writes) {
    size_t offset = reinterpret_cast<uintptr_t>(address) - DEVICE_SPACE;
    if (__builtin_expect(offset < SPACE_BYTES, 0)) note_device(offset, bytes, writes);
}

}  // namespace

void begin_traffic(Traffic& traffic, int device, size_t cache_bytes) {
    static const Sectors once = sectors = reserve_sectors();
    (void)once;
    traffic = {};
    traffic.device = device;
    traffic.cache_sectors = cache_bytes >> SECTOR_BITS;
}

uint32_t count_block() {
    static std::atomic<uint32_t> blocks{0};
    return ++blocks;
}

void end_traffic(Traffic& traffic) {
    for (size_t word : traffic.touched) sectors.read[word] = sectors.written[word] = 0;
    traffic.touched = {};
}

void note_read(const void* from, size_t bytes) { note(from, bytes, false); }

}  // namespace simt

#ifdef STAND_IN_COUNTS

#define HOOK extern "C" __attribute__((visibility("hidden")))

#define ACCESS(bytes)                                                                      \
    HOOK void __tsan_read##bytes(void* at) { simt::note(at, bytes, false); }               \
    HOOK void __tsan_write##bytes(void* at) { simt::note(at, bytes, true); }               \
    HOOK void __tsan_unaligned_read##bytes(void* at) { simt::note(at, bytes, false); }     \
    HOOK void __tsan_unaligned_write##bytes(void* at) { simt::note(at, bytes, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

HOOK void __tsan_read_range(void* at, size_t bytes) { simt::note(at, bytes, false); }
HOOK void __tsan_write_range(void* at, size_t bytes) { simt::note(at, bytes, true); }
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_init() {}

// Atomics are calls as well, which do what they are named for.
#define ATOMIC(bits, type)                                                                                  \
    HOOK type __tsan_atomic##bits##_load(const volatile type* at, int) {                                    \
        simt::note(at, sizeof(type), false);                                                                \
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                       \
    }                                                                                                       \
    HOOK void __tsan_atomic##bits##_store(volatile type* at, type value, int) {                             \
        simt::note(at, sizeof(type), true);                                                                 \
        __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                      \
    }                                                                                                       \
    HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile type* at, type* expected, type value,   \
                                                           int, int) {                                      \
        simt::note(at, sizeof(type), true);                                                                 \
        return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }                                                                                                       \
    HOOK int __tsan_atomic##bits##_compare_exchange_weak(volatile type* at, type* expected, type value,     \
                                                         int success, int failure) {                        \
        return __tsan_atomic##bits##_compare_exchange_strong(at, expected, value, success, failure);        \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HOOK void __tsan_atomic_signal_fence(int) {}

#endif

// Barriers in shared memory, at which threads arrive, and bytes that copies bring.
#include <algorithm>

#include "block.hpp"
#include "warpgroups.hpp"

namespace simt {

namespace {

constexpr int ARRIVALS_MAX = (1 << 12) - 1;
constexpr int BYTES_MAX = (1 << 20) - 1;  // PTX: the range of tx-count

// A word of shared memory that is a barrier: NaN, what it was before, is none.
struct Barrier {
    static constexpr uint64_t MARK = 0xba55;
    uint64_t mark : 16, phase : 1, expected : 12, missing : 12;
    int64_t bytes : 22;  // that are missing; below zero where they came before anybody expected them
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

const Barrier& of(const uint64_t* at) { return *reinterpret_cast<const Barrier*>(at); }

Barrier& barrier_at(uint64_t* at, Place place) {
    if (!is_barrier(at)) fail("uses a barrier that was not initialized", place);
    return *reinterpret_cast<Barrier*>(at);
}

// All have arrived, and all bytes came: whoever waits can go on.
void end_phase(Block& block, uint64_t* at, Barrier& barrier) {
    barrier.missing = barrier.expected;
    barrier.phase ^= 1;
    for (const BoxCopy& box : block.warpgroups.boxes) {
        if (box.barrier == at) block.fail("a barrier did not expect all bytes that come to it by a copy", box.place);
    }
    auto is_over = [&](const BarrierWaiter& waiter) {
        if (waiter.barrier != at || waiter.parity == barrier.phase) return false;
        Warp& warp = *waiter.fiber->warp;
        warp.ready |= 1u << warp.position_of[waiter.fiber->lane];
        return true;
    };
    std::vector<BarrierWaiter>& waiters = block.warpgroups.waiters;
    waiters.erase(std::remove_if(waiters.begin(), waiters.end(), is_over), waiters.end());
}

}  // namespace

bool is_barrier(const uint64_t* at) { return of(at).mark == Barrier::MARK; }

void init_barrier(uint64_t* at, int arrivals, Place place) {
    if (arrivals < 1 || arrivals > ARRIVALS_MAX) fail("initializes a barrier for no arrivals, or for too many", place);
    *reinterpret_cast<Barrier*>(at) = {Barrier::MARK, 0, uint64_t(arrivals), uint64_t(arrivals), 0};
    Fiber& fiber = self();
    fiber.warp->block->warpgroups.unfenced_barriers.push_back({at, number_of(fiber)});
}

void arrive_at_barrier(uint64_t* at, int bytes, Place place) {
    Barrier& barrier = barrier_at(at, place);
    if (bytes < 0 || barrier.bytes + bytes > BYTES_MAX) fail("expects more bytes than a barrier can count", place);
    if (!barrier.missing) fail("arrives at a barrier where nothing but bytes is missing", place);
    barrier.bytes += bytes;
    barrier.missing--;
    if (!barrier.missing && !barrier.bytes) end_phase(*self().warp->block, at, barrier);
}

void bring_to_barrier(Block& block, uint64_t* at, int bytes, Place place) {
    if (!is_barrier(at)) block.fail("a copy brings bytes to a barrier that was overwritten", place);
    Barrier& barrier = *reinterpret_cast<Barrier*>(at);
    if (barrier.bytes - bytes < -BYTES_MAX) block.fail("copies bring more bytes than a barrier can count", place);
    barrier.bytes -= bytes;
    if (!barrier.missing && !barrier.bytes) end_phase(block, at, barrier);
}

void wait_at_barrier(uint64_t* at, int parity, Place place) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    // Who comes late may find that the next phase is over too, and waits for one that may never be.
    while (int(barrier_at(at, place).phase) == parity) {
        warp.block->warpgroups.waiters.push_back({&fiber, at, parity});
        fiber.waiting = Waiting::Block;
        fiber.place = place;
        warp.ready &= ~(1u << warp.position_of[fiber.lane]);
        warp.block->leave(fiber);
        fiber.waiting = Waiting::Nothing;
    }
}

std::string told_of_barriers(const Block& block) {
    std::string told;
    const uint64_t* last = nullptr;
    for (const BarrierWaiter& waiter : block.warpgroups.waiters) {
        if (waiter.barrier == last) continue;
        last = waiter.barrier;
        const Barrier& barrier = of(last);
        told += "\n  at a barrier " + std::to_string(barrier.missing) + " arrivals and " +
                std::to_string(barrier.bytes) + " bytes are missing";
    }
    return told;
}

}  // namespace simt

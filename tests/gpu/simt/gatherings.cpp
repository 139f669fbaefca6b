// How lanes of a warp and threads of a block wait for each other.
#include <sched.h>

#include "block.hpp"
#include "memory.hpp"

namespace simt {

namespace {

constexpr uint32_t STOPS_ONE_IN = 16;

void check_mask(const Warp& warp, uint32_t mask, int lane, Place place) {
    if (!(mask >> lane & 1)) fail("is not in the mask of its own warp operation", place);
    if (mask & ~warp.lanes) fail("the mask of its warp operation names lanes that don't exist", place);
    if (mask & warp.exited) fail("the mask of its warp operation names lanes that have exited", place);
}

Gathering& gathering_of(Warp& warp, WarpOperation operation, uint32_t mask, Place place) {
    for (int at = 0; at < warp.gathering_count; at++) {
        Gathering& gathering = warp.gatherings[at];
        if (gathering.mask != mask) continue;
        if (gathering.operation != operation) fail("lanes of one mask are in different warp operations", place);
        if (gathering.place.line != place.line && operation != WarpOperation::Sync) {
            fail("lanes of one mask are in the same warp operation at different places", place);
        }
        return gathering;
    }
    Gathering& gathering = warp.gatherings[warp.gathering_count++];
    gathering = {mask, 0, operation, place};
    return gathering;
}

}  // namespace

uint64_t meet(WarpOperation operation, uint32_t mask, const Operands& operands, Place place) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    int lane = fiber.lane;
    check_mask(warp, mask, lane, place);
    Gathering& gathering = gathering_of(warp, operation, mask, place);
    gathering.arrived |= 1u << lane;
    warp.operands[lane] = operands;
    if (gathering.arrived != mask) {
        fiber.waiting = Waiting::Warp;
        fiber.mask = mask;
        fiber.place = place;
        warp.ready &= ~(1u << warp.position_of[lane]);
        warp.block->leave(fiber);
        fiber.waiting = Waiting::Nothing;
        return warp.results[lane];
    }
    // The last one to come does the work for all, and goes on.
    gathering = warp.gatherings[--warp.gathering_count];
    execute(warp, operation, mask);
    warp.ready |= positions_of(warp, mask);
    Block& block = *warp.block;
    if (block.launch->seed && block.random.next() % STOPS_ONE_IN == 0) {
        block.give_way(fiber, warp.position_of[lane]);  // so that another warp gets ahead
    }
    return warp.results[lane];
}

int meet_block(Vote vote, int predicate, Place place) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    Block& block = *warp.block;
    if (block.exited) fail("is in __syncthreads, and some of its block have exited", place);
    if (!block.waiting) {
        block.barrier = place;
        block.vote_count = vote == Vote::And;
    } else if (block.barrier.line != place.line) {
        fail("is in another __syncthreads than the rest of its block", place);
    }
    block.waiting++;
    if (vote == Vote::Count) block.vote_count += predicate != 0;
    if (vote == Vote::And) block.vote_count &= predicate != 0;
    if (vote == Vote::Or) block.vote_count |= predicate != 0;
    if (block.waiting == block.thread_count) {
        block.release_barrier();
        return block.vote_result;
    }
    fiber.waiting = Waiting::Block;
    fiber.place = place;
    warp.at_barrier |= 1u << fiber.lane;
    warp.ready &= ~(1u << warp.position_of[fiber.lane]);
    block.leave(fiber);
    fiber.waiting = Waiting::Nothing;
    return block.vote_result;
}

}  // namespace simt

void spin_pause(simt::Place) {
    simt::Fiber& fiber = simt::self();
    simt::Warp& warp = *fiber.warp;
    simt::Block& block = *warp.block;
    block.spun++;
    int position = simt::next_position(warp, warp.position_of[fiber.lane] + 1, false);
    if (position >= 0) {
        block.go_on_with(fiber, position);
    } else {
        block.give_way(fiber, 0);
    }
}

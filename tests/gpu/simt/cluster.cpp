#include "cluster.hpp"

#include "clusters.hpp"

namespace simt {

namespace {

// Which block has its turn: in order, backwards, or from a random one on.
size_t in_turn(unsigned seed, size_t turn, size_t offset, size_t count) {
    if (seed == 0) return turn;
    return seed == 1 ? count - 1 - turn : (turn + offset) % count;
}

}  // namespace

void Cluster::run(const Launch& launch, uint3 first) {
    prepare(launch, first);
    // Not that of a block, which draws as often as it spins: where blocks of several GPUs meet, their turns are alike.
    Random random = blocks_.front()->random;
    for (;;) {
        size_t offset = launch.seed >= 2 && count_ > 1 ? random.next() % count_ : 0;
        size_t left = 0;
        for (size_t turn = 0; turn < count_; turn++) {
            Block& block = *blocks_[in_turn(launch.seed, turn, offset, count_)];
            if (block.phase == Block::Phase::Ended) continue;
            block.advance();
            left += block.phase != Block::Phase::Ended;
        }
        if (!left) return;
        for (size_t at = 0; at < count_; at++) {
            if (blocks_[at]->phase != Block::Phase::Ended) blocks_[at]->release_from_cluster();
        }
    }
}

void Cluster::prepare(const Launch& launch, uint3 first) {
    auto [across, down, deep] = launch.cluster;
    count_ = size_t(across) * down * deep;
    while (blocks_.size() < count_) {
        blocks_.push_back(std::make_unique<Block>());
        blocks_.back()->scheduler = own_context();
    }
    for (unsigned rank = 0; rank < count_; rank++) {
        Block& block = *blocks_[rank];
        block.launch = &launch;
        block.traffic = launch.traffic;
        block.may_begin_early = launch.may_begin_early;
        block.threads = launch.block;
        block.thread_count = int(launch.block.x * launch.block.y * launch.block.z);
        block.grid = launch.grid;
        block.cluster = this;
        block.rank = int(rank);
        uint3 at = {first.x + rank % across, first.y + rank / across % down, first.z + rank / (across * down)};
        uint64_t number = at.x + uint64_t(launch.grid.x) * (at.y + uint64_t(launch.grid.y) * at.z);
        block.random.state = (number + 1) * 0x9e3779b97f4a7c15u ^ launch.seed * 0xda942042e4dd58b5u;
        block.prepare(at);
    }
}

void meet_cluster(Place place) {
    Fiber& fiber = self();
    Warp& warp = *fiber.warp;
    // All lanes of a warp at once (`.aligned`).
    meet(WarpOperation::Sync, warp.lanes, {}, place);
    warp.block->at_cluster_barrier++;
    fiber.waiting = Waiting::Cluster;
    fiber.place = place;
    warp.ready &= ~(1u << warp.position_of[fiber.lane]);
    warp.block->leave(fiber);
    fiber.waiting = Waiting::Nothing;
}

const void* shared_of_block(const void* own, size_t bytes, int rank, Place place) {
    const Block& block = *self().warp->block;
    const Block* other = block.cluster->block(rank);
    if (!other) fail("reads shared memory of a block that its cluster does not have", place);
    if (other->phase == Block::Phase::Before) fail("reads shared memory of a block that may not have begun", place);
    if (other->phase == Block::Phase::Ended) fail("reads shared memory of a block that may have ended", place);
    size_t offset = size_t(static_cast<const char*>(own) - block.dynamic_shared);
    if (offset + bytes > block.launch->dynamic_shared || offset > block.launch->dynamic_shared) {
        fail("reads beyond dynamic shared memory of another block", place);
    }
    return other->dynamic_shared + offset;
}

}  // namespace simt

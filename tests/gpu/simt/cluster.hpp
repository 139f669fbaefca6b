// Blocks that run at once and read each other's shared memory: they take turns on the stream's thread, from one meeting
// of all to the next.
#pragma once

#include <memory>
#include <vector>

#include "block.hpp"

namespace simt {

class Cluster {
public:
    // Runs the cluster whose first block is `first`.
    void run(const Launch& launch, uint3 first);

    // The block of that number, or null.
    const Block* block(int rank) const { return size_t(rank) < count_ ? blocks_[size_t(rank)].get() : nullptr; }

private:
    void prepare(const Launch& launch, uint3 first);

    std::vector<std::unique_ptr<Block>> blocks_;  // kept for the next cluster
    size_t count_ = 0;
};

}  // namespace simt

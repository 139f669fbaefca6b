// What ranks do together.
#pragma once

#include <memory>
#include <vector>

#include "communicator.hpp"

namespace stand_in {

enum class Kind : int { AllReduce, AllGather, ReduceScatter, Broadcast, Reduce, Send, Receive };

const char* name_of(Kind kind);

size_t bytes_of(ncclDataType_t type);

// One call's part of an operation, at one rank.
struct Work {
    std::shared_ptr<ncclComm> comm;
    Kind kind;
    const void* send;
    void* receive;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t reduction;
    int root;  // or the peer

    size_t send_bytes() const;
    size_t receive_bytes() const;
};

void run_collective(const Work& work);

// Sends and receives of one group: they make progress together, for one may wait for another's peer.
void run_transfers(const std::vector<Work>& works);

// Adds the ranks' `count` elements, given one after another in the order of ranks, into `to`.
//
// Numbers are added in the order of ranks, whichever rank adds them, so that all get the same bits. Of narrow types each
// sum is taken in f32 and rounded before the next, as the real library's ring does it at each hop; there the order
// depends on the place in the ring, and so on the element.
void reduce(void* to, const std::vector<const void*>& from, size_t count, ncclDataType_t type, ncclRedOp_t reduction);

bool can_reduce(ncclDataType_t type, ncclRedOp_t reduction);

}  // namespace stand_in

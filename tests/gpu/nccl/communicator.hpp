// A rank's membership in a group, and the shared memory where its ranks meet.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#pragma GCC visibility push(default)
#include <nccl.h>
#pragma GCC visibility pop

namespace stand_in {

constexpr int RANKS_MAX = 64;
constexpr size_t AREA_BYTES = 512 * 1024;    // that a rank shows the others at once
constexpr size_t CHANNEL_BYTES = 64 * 1024;  // on their way from one rank to another

// What a rank is about to do; all must be about to do the same.
struct Description {
    int kind;
    int type;
    int reduction;
    int root;
    uint64_t count;

    bool operator==(const Description& other) const;
    std::string text() const;
};

enum class Presence : int { Absent, Here, Aborted, Left };

struct alignas(64) Seat {
    std::atomic<Presence> presence;
    std::atomic<int> process;
    std::atomic<uint64_t> turn;  // up to which its area is filled
    Description described[2];    // by the turn's parity
};

// Bytes from one rank to another, a ring.
struct alignas(64) Channel {
    std::atomic<uint64_t> written;
    std::atomic<uint64_t> read;
    char bytes[CHANNEL_BYTES];
};

struct Segment {
    std::atomic<int> ranks;
    Seat seats[RANKS_MAX];
};

}  // namespace stand_in

struct ncclComm : std::enable_shared_from_this<ncclComm> {
    int rank = 0;
    int ranks = 0;
    int device = 0;

    // The rank's own operations, one after another.
    std::mutex lock;
    uint64_t turn = 0;

    std::atomic<bool> aborted{false};
    std::atomic<ncclResult_t> error{ncclSuccess};

    ~ncclComm();

    // Takes the rank's seat; others may be missing yet.
    ncclResult_t join(const ncclUniqueId& id, int rank, int ranks);
    // Waits for all others to have taken theirs.
    ncclResult_t wait_for_all();

    stand_in::Seat& seat(int of) { return segment_->seats[of]; }
    char* area(int of, uint64_t turn);
    stand_in::Channel& channel(int from, int to);

    // Waits until `ready()`. False if the communicator was aborted; where a peer is gone that the wait `needs`, it goes on
    // waiting for that, as the real library's kernels do, and `error` says so.
    template <class Ready, class Needs>
    bool wait_until(Ready ready, Needs needs) {
        for (Patience patience; !ready();) {
            if (aborted) return false;
            if (!patience.step(rank)) continue;
            for (int peer = 0; peer < ranks; peer++) {
                if (peer != rank && needs(peer)) look_after(peer);
            }
        }
        return true;
    }

    void leave(stand_in::Presence how);
    void fail(ncclResult_t result, const std::string& why);
    const char* last_error();

private:
    // How a wait spends its time.
    class Patience {
    public:
        // Whether it is time to look after the others.
        bool step(int rank);

    private:
        unsigned steps_ = 0;
        int64_t began_us_ = 0, looked_us_ = 0;
    };

    // How a peer was lost; empty where it was not.
    std::string loss_of(int peer);
    void look_after(int peer);
    bool somebody_is_absent();

    stand_in::Segment* segment_ = nullptr;
    size_t segment_bytes_ = 0;
    std::string name_;
    std::vector<int> peer_processes_;  // descriptors that tell when a process ended
    std::mutex message_lock_;
    std::string message_;
};

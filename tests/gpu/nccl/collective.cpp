#include "collective.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace stand_in {

const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::AllReduce: return "all-reduce";
        case Kind::AllGather: return "all-gather";
        case Kind::ReduceScatter: return "reduce-scatter";
        case Kind::Broadcast: return "broadcast";
        case Kind::Reduce: return "reduce";
        case Kind::Send: return "send";
        case Kind::Receive: return "receive";
    }
    return "?";
}

size_t bytes_of(ncclDataType_t type) {
    switch (type) {
        case ncclInt8:
        case ncclUint8:
        case ncclFloat8e4m3:
        case ncclFloat8e5m2: return 1;
        case ncclFloat16:
        case ncclBfloat16: return 2;
        case ncclInt64:
        case ncclUint64:
        case ncclFloat64: return 8;
        default: return 4;
    }
}

size_t Work::send_bytes() const {
    bool sends = kind != Kind::Receive && (kind != Kind::Broadcast || comm->rank == root);
    size_t pieces = kind == Kind::ReduceScatter ? size_t(comm->ranks) : 1;
    return sends ? pieces * count * bytes_of(type) : 0;
}

size_t Work::receive_bytes() const {
    bool receives = kind != Kind::Send && (kind != Kind::Reduce || comm->rank == root);
    size_t pieces = kind == Kind::AllGather ? size_t(comm->ranks) : 1;
    return receives ? pieces * count * bytes_of(type) : 0;
}

namespace {

// One rank's side of an exchange: it shows its area to all, and looks at theirs.
class Exchange {
public:
    explicit Exchange(const Work& work) : work_(work), comm_(*work.comm), turn_(++comm_.turn) {}

    char* own() { return comm_.area(comm_.rank, turn_); }
    const char* of(int rank) { return comm_.area(rank, turn_); }

    // The other area is filled meanwhile: who gets to fill this one again has seen all others come to the next turn, so
    // that they have done with it. False if the communicator was aborted.
    bool meet() {
        Description mine{int(work_.kind), int(work_.type), int(work_.reduction), work_.root, work_.count};
        Seat& seat = comm_.seat(comm_.rank);
        seat.described[turn_ % 2] = mine;
        seat.turn.store(turn_, std::memory_order_release);  // SYNC: area filled
        for (int rank = 0; rank < comm_.ranks; rank++) {
            Seat& other = comm_.seat(rank);
            auto filled = [&] { return other.turn.load(std::memory_order_acquire) >= turn_; };  // SYNC: area filled
            if (!comm_.wait_until(filled, [&](int peer) { return peer == rank; })) return false;
            compare(mine, rank, other.described[turn_ % 2]);
        }
        return true;
    }

    std::vector<const void*> all(size_t offset) {
        std::vector<const void*> areas;
        for (int rank = 0; rank < comm_.ranks; rank++) areas.push_back(of(rank) + offset);
        return areas;
    }

private:
    void compare(const Description& mine, int rank, const Description& theirs) {
        if (mine == theirs) return;
        fprintf(stderr, "stand-in nccl: rank %d does %s, and rank %d %s\n", comm_.rank, mine.text().c_str(), rank,
                theirs.text().c_str());
        abort();
    }

    const Work& work_;
    ncclComm& comm_;
    uint64_t turn_;
};

// A part of each rank's elements.
struct Part {
    size_t first, count;
};

bool run_part(const Work& work, Part part) {
    Exchange exchange(work);
    ncclComm& comm = *work.comm;
    size_t element = bytes_of(work.type), bytes = part.count * element, start = part.first * element;
    auto send = static_cast<const char*>(work.send);
    auto receive = static_cast<char*>(work.receive);
    bool is_root = comm.rank == work.root;
    size_t pieces = work.kind == Kind::ReduceScatter ? size_t(comm.ranks) : 1;
    if (work.kind != Kind::Broadcast || is_root) {
        for (size_t piece = 0; piece < pieces; piece++) {
            memcpy(exchange.own() + piece * bytes, send + piece * work.count * element + start, bytes);
        }
    }
    if (!exchange.meet()) return false;
    switch (work.kind) {
        case Kind::AllReduce: reduce(receive + start, exchange.all(0), part.count, work.type, work.reduction); break;
        case Kind::Reduce:
            if (is_root) reduce(receive + start, exchange.all(0), part.count, work.type, work.reduction);
            break;
        case Kind::ReduceScatter:
            reduce(receive + start, exchange.all(size_t(comm.rank) * bytes), part.count, work.type, work.reduction);
            break;
        case Kind::AllGather:
            for (int rank = 0; rank < comm.ranks; rank++) {
                memcpy(receive + size_t(rank) * work.count * element + start, exchange.of(rank), bytes);
            }
            break;
        case Kind::Broadcast: memcpy(receive + start, exchange.of(work.root), bytes); break;
        case Kind::Send:
        case Kind::Receive: break;
    }
    return true;
}

// A message between two ranks: its length, then its bytes.
class Transfer {
public:
    explicit Transfer(const Work& work) : work_(work), bytes_(work.count * bytes_of(work.type)) {
        ncclComm& comm = *work.comm;
        sends_ = work.kind == Kind::Send;
        channel_ = sends_ ? &comm.channel(comm.rank, work.root) : &comm.channel(work.root, comm.rank);
    }

    bool done() const { return header_done_ && moved_ == bytes_; }

    // Moves what can be moved now; whether that was anything.
    bool progress() {
        if (done()) return false;
        uint64_t read = channel_->read.load(std::memory_order_acquire);        // SYNC: room in a channel
        uint64_t written = channel_->written.load(std::memory_order_acquire);  // SYNC: bytes in a channel
        size_t possible = sends_ ? CHANNEL_BYTES - size_t(written - read) : size_t(written - read);
        if (!header_done_) {
            if (possible < sizeof(uint64_t)) return false;
            uint64_t length = bytes_;
            move(sends_ ? written : read, &length, sizeof length);
            if (length != bytes_) mismatch(length);
            header_done_ = true;
            return true;
        }
        size_t now = std::min(possible, bytes_ - moved_);
        if (!now) return false;
        const char* at = static_cast<const char*>(sends_ ? work_.send : work_.receive) + moved_;
        move(sends_ ? written : read, const_cast<char*>(at), now);
        moved_ += now;
        return true;
    }

private:
    void move(uint64_t from, void* bytes, size_t count) {
        auto* at = static_cast<char*>(bytes);
        for (size_t moved = 0; moved < count;) {
            size_t place = size_t((from + moved) % CHANNEL_BYTES);
            size_t now = std::min(count - moved, CHANNEL_BYTES - place);
            if (sends_) {
                memcpy(channel_->bytes + place, at + moved, now);
            } else {
                memcpy(at + moved, channel_->bytes + place, now);
            }
            moved += now;
        }
        if (sends_) {
            channel_->written.store(from + count, std::memory_order_release);  // SYNC: bytes in a channel
        } else {
            channel_->read.store(from + count, std::memory_order_release);  // SYNC: room in a channel
        }
    }

    [[noreturn]] void mismatch(uint64_t length) {
        fprintf(stderr, "stand-in nccl: rank %d expects %zu bytes of rank %d, which sends %llu\n", work_.comm->rank,
                bytes_, work_.root, (unsigned long long)length);
        abort();
    }

    const Work& work_;
    size_t bytes_, moved_ = 0;
    bool sends_ = false, header_done_ = false;
    Channel* channel_;
};

}  // namespace

void run_collective(const Work& work) {
    ncclComm& comm = *work.comm;
    std::lock_guard lock(comm.lock);
    size_t pieces = work.kind == Kind::ReduceScatter ? size_t(comm.ranks) : 1;
    size_t at_once = AREA_BYTES / pieces / bytes_of(work.type);
    for (size_t first = 0; first < work.count; first += at_once) {
        if (!run_part(work, {first, std::min(at_once, work.count - first)})) return;
    }
}

void run_transfers(const std::vector<Work>& works) {
    ncclComm& comm = *works.front().comm;
    std::lock_guard lock(comm.lock);
    std::vector<Transfer> transfers;
    for (const Work& work : works) transfers.emplace_back(work);
    auto all_done = [&] {
        bool done = true;
        // Messages from one rank to another arrive in the order in which they were sent: a later one waits.
        for (size_t at = 0; at < transfers.size(); at++) {
            auto same = [&](size_t other) {
                return works[other].kind == works[at].kind && works[other].root == works[at].root &&
                       !transfers[other].done();
            };
            bool first = true;
            for (size_t other = 0; other < at; other++) first = first && !same(other);
            if (first) {
                while (transfers[at].progress()) {
                }
            }
            done = done && transfers[at].done();
        }
        return done;
    };
    auto needs = [&](int peer) {
        for (size_t at = 0; at < transfers.size(); at++) {
            if (works[at].root == peer && !transfers[at].done()) return true;
        }
        return false;
    };
    comm.wait_until(all_done, needs);
}

}  // namespace stand_in

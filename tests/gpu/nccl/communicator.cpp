#include "communicator.hpp"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "collective.hpp"

using namespace stand_in;

namespace {

constexpr unsigned STEPS_BEFORE_YIELD = 64, STEPS_BEFORE_SLEEP = 2048;
constexpr useconds_t SLEEP_US = 50;
constexpr int64_t LOOK_EVERY_US = 2000;

// In place of a descriptor of a peer's process.
constexpr int UNKNOWN = -1, ENDED = -2;

int64_t now_us() {
    auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

// STAND_IN_COLLECTIVE_SECONDS: a rank that waits longer for the others ends its process.
int64_t patience_us() {
    static const int64_t limit = [] {
        const char* told = getenv("STAND_IN_COLLECTIVE_SECONDS");
        return int64_t(told ? atoi(told) : 120) * 1'000'000;
    }();
    return limit;
}

// STAND_IN_PEER_LOSS=silent: nobody notices that a process is gone, as where GPUs read each other's memory.
bool notices_losses() {
    static const bool notices = [] {
        const char* told = getenv("STAND_IN_PEER_LOSS");
        return !told || strcmp(told, "silent") != 0;
    }();
    return notices;
}

size_t areas_start() { return (sizeof(Segment) + 4095) / 4096 * 4096; }

size_t channels_start(int ranks) { return areas_start() + size_t(ranks) * 2 * AREA_BYTES; }

}  // namespace

bool Description::operator==(const Description& other) const {
    return kind == other.kind && type == other.type && reduction == other.reduction && root == other.root &&
           count == other.count;
}

std::string Description::text() const {
    return std::string(name_of(Kind(kind))) + " of " + std::to_string(count) + " elements of type " +
           std::to_string(type) + ", reduction " + std::to_string(reduction) + ", root " + std::to_string(root);
}

ncclComm::~ncclComm() {
    if (segment_) munmap(segment_, segment_bytes_);
    for (int process : peer_processes_) {
        if (process >= 0) close(process);
    }
}

char* ncclComm::area(int of, uint64_t of_turn) {
    return reinterpret_cast<char*>(segment_) + areas_start() + (size_t(of) * 2 + of_turn % 2) * AREA_BYTES;
}

Channel& ncclComm::channel(int from, int to) {
    char* first = reinterpret_cast<char*>(segment_) + channels_start(ranks);
    return reinterpret_cast<Channel*>(first)[from * ranks + to];
}

ncclResult_t ncclComm::join(const ncclUniqueId& id, int own_rank, int of_ranks) {
    if (of_ranks < 1 || of_ranks > RANKS_MAX || own_rank < 0 || own_rank >= of_ranks) {
        fail(ncclInvalidArgument, "rank " + std::to_string(own_rank) + " of " + std::to_string(of_ranks));
        return ncclInvalidArgument;
    }
    rank = own_rank;
    ranks = of_ranks;
    name_.assign(id.internal, strnlen(id.internal, sizeof id.internal));
    int file = shm_open(name_.c_str(), O_CREAT | O_RDWR, 0600);
    segment_bytes_ = channels_start(ranks) + sizeof(Channel) * size_t(ranks) * size_t(ranks);
    if (file < 0 || ftruncate(file, off_t(segment_bytes_))) {
        fail(ncclSystemError, name_ + ": " + strerror(errno));
        if (file >= 0) close(file);
        return ncclSystemError;
    }
    void* mapped = mmap(nullptr, segment_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return ncclSystemError;
    segment_ = static_cast<Segment*>(mapped);

    int nobody = 0;
    if (!segment_->ranks.compare_exchange_strong(nobody, ranks) && nobody != ranks) {
        fail(ncclInvalidUsage, "others speak of " + std::to_string(nobody) + " ranks");
        return ncclInvalidUsage;
    }
    Presence absent = Presence::Absent;
    seat(rank).process = getpid();
    if (!seat(rank).presence.compare_exchange_strong(absent, Presence::Here)) {
        fail(ncclInvalidUsage, "rank " + std::to_string(rank) + " is there already");
        return ncclInvalidUsage;
    }
    return ncclSuccess;
}

bool ncclComm::somebody_is_absent() {
    for (int peer = 0; peer < ranks; peer++) {
        if (seat(peer).presence == Presence::Absent) return true;
    }
    return false;
}

ncclResult_t ncclComm::wait_for_all() {
    peer_processes_.assign(size_t(ranks), UNKNOWN);
    for (int peer = 0; peer < ranks; peer++) {
        auto is_there = [&] { return seat(peer).presence != Presence::Absent || error != ncclSuccess; };
        // Who is gone when all have come has only been faster.
        auto needs = [&](int other) { return !loss_of(other).empty() && somebody_is_absent(); };
        if (!wait_until(is_there, needs) || error != ncclSuccess) return error;
        int process = seat(peer).process;
        if (process == getpid()) continue;
        int descriptor = int(syscall(SYS_pidfd_open, process, 0));
        peer_processes_[size_t(peer)] = descriptor < 0 && errno == ESRCH ? ENDED : descriptor;
    }
    shm_unlink(name_.c_str());  // by the first who sees them all; nobody needs its name any more
    return error;
}

void ncclComm::leave(Presence how) {
    if (how == Presence::Aborted) aborted = true;
    if (segment_) seat(rank).presence = how;
}

void ncclComm::fail(ncclResult_t result, const std::string& why) {
    ncclResult_t none = ncclSuccess;
    if (!error.compare_exchange_strong(none, result)) return;
    std::lock_guard guard(message_lock_);
    message_ = why;
    fprintf(stderr, "stand-in nccl: rank %d: %s\n", rank, why.c_str());
}

const char* ncclComm::last_error() {
    std::lock_guard guard(message_lock_);
    return message_.c_str();
}

std::string ncclComm::loss_of(int peer) {
    std::string name = "rank " + std::to_string(peer);
    Presence presence = seat(peer).presence;
    if (presence == Presence::Aborted) return name + " has aborted";
    if (presence == Presence::Left) return name + " has left";
    int process = size_t(peer) < peer_processes_.size() ? peer_processes_[size_t(peer)] : UNKNOWN;
    pollfd ended{process, POLLIN, 0};
    if (process == ENDED || (process >= 0 && poll(&ended, 1, 0) == 1)) return "the process of " + name + " has ended";
    return "";
}

void ncclComm::look_after(int peer) {
    std::string loss = notices_losses() ? loss_of(peer) : "";
    if (!loss.empty()) fail(ncclRemoteError, loss);
}

bool ncclComm::Patience::step(int rank) {
    steps_++;
    if (steps_ < STEPS_BEFORE_YIELD) {
        __builtin_ia32_pause();
        return false;
    }
    if (steps_ < STEPS_BEFORE_SLEEP) {
        sched_yield();
    } else {
        usleep(SLEEP_US);
    }
    int64_t now = now_us();
    if (!began_us_) began_us_ = now;
    if (now - looked_us_ < LOOK_EVERY_US) return false;
    looked_us_ = now;
    if (now - began_us_ > patience_us()) {
        fprintf(stderr, "stand-in nccl: rank %d waits for the others for more than %lld s\n", rank,
                (long long)(patience_us() / 1'000'000));
        abort();
    }
    return true;
}

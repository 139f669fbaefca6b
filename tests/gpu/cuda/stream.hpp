// Streams and events. Each stream has a thread, so that what is not ordered happens in any order.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "operation.hpp"

namespace stand_in {

struct Capture;

// A stream's n-th operation.
struct Ticket {
    CUstream stream;
    uint64_t number;
};

// What an event stands for: the n-th time that it was recorded.
struct EventState {
    std::mutex lock;
    std::condition_variable changed;
    uint64_t recorded = 0;
    uint64_t completed = 0;
    std::chrono::steady_clock::time_point time;

    void complete(uint64_t which);
    void wait(uint64_t which);
};

// The living objects of a kind: a handle that is not among them was destroyed, or never made.
template <class T>
class Living {
public:
    void add(T* object) {
        std::lock_guard lock(lock_);
        objects_.insert(object);
    }
    bool remove(T* object) {
        std::lock_guard lock(lock_);
        return objects_.erase(object) > 0;
    }
    bool has(T* object) {
        std::lock_guard lock(lock_);
        return objects_.count(object) > 0;
    }
    std::vector<T*> all() {
        std::lock_guard lock(lock_);
        return {objects_.begin(), objects_.end()};
    }

private:
    std::mutex lock_;
    std::set<T*> objects_;
};

Living<CUstream_st>& streams();
Living<CUevent_st>& events();

// The stream of a handle – the context's own for the legacy one – or null with a complaint.
CUstream stream_of(CUstream handle, const char* function);

CUstream make_stream(CUcontext context, unsigned flags, int priority);

// Puts an operation behind the others of a stream, or into the graph that it is captured in.
CUresult enqueue(CUstream stream, Operation operation, const char* function);

// Waits until everything that was enqueued so far is done.
void wait_for(CUstream stream);
void wait_for_all(CUcontext context);

}  // namespace stand_in

struct CUstream_st {
    CUcontext context;
    unsigned flags;
    int priority;
    int number;
    bool legacy = false;

    struct Queued {
        stand_in::Operation operation;
        std::vector<stand_in::Ticket> after;
    };
    std::mutex lock;
    std::condition_variable changed;
    std::deque<Queued> queue;
    uint64_t submitted = 0;
    uint64_t completed = 0;
    bool ending = false;
    std::thread thread;

    // Guarded by the lock of captures.
    stand_in::Capture* capture = nullptr;
    std::vector<CUgraphNode> capture_tail;

    uint64_t submit(stand_in::Operation operation, std::vector<stand_in::Ticket> after);
    void wait(uint64_t number);
    void end();

private:
    void work();
};

struct CUevent_st {
    explicit CUevent_st(unsigned flags) : flags(flags) {}

    unsigned flags;
    std::shared_ptr<stand_in::EventState> state = std::make_shared<stand_in::EventState>();

    // The capture in which it was last recorded, if it was, and behind what.
    uint64_t capture_id = 0;
    std::vector<CUgraphNode> capture_tail;
};

#include "stream.hpp"

#include <csignal>
#include <cstdlib>
#include <map>
#include <unistd.h>

#include "capture.hpp"
#include "context.hpp"
#include "settings.hpp"

namespace stand_in {

namespace {

// Tickets are taken under one lock: an operation waits only for such as were submitted before it.
std::mutex order_lock;

std::atomic<int> stream_count{0};

bool blocks_legacy(CUstream stream) { return !(stream->flags & CU_STREAM_NON_BLOCKING); }

Ticket last_of(CUstream stream) {
    std::lock_guard lock(stream->lock);
    return {stream, stream->submitted};
}

// The legacy stream waits for all blocking streams of its context, and they for it.
std::vector<Ticket> implied_waits(CUstream stream) {
    std::vector<Ticket> waits;
    if (stream->legacy) {
        for (CUstream other : streams().all()) {
            if (other != stream && other->context == stream->context && blocks_legacy(other))
                waits.push_back(last_of(other));
        }
    } else if (blocks_legacy(stream) && stream->context->legacy) {
        waits.push_back(last_of(stream->context->legacy));
    }
    return waits;
}

// Signals that stop a kernel are handled elsewhere than on its stack, which may be the fault.
void use_signal_stack() {
#ifndef __SANITIZE_ADDRESS__  // which gives each thread one
    static thread_local char room[64 * 1024];
    stack_t stack{};
    stack.ss_sp = room;
    stack.ss_size = sizeof room;
    sigaltstack(&stack, nullptr);
#endif
}

}  // namespace

void EventState::complete(uint64_t which) {
    std::lock_guard guard(lock);
    completed = std::max(completed, which);
    time = std::chrono::steady_clock::now();
    changed.notify_all();
}

void EventState::wait(uint64_t which) {
    std::unique_lock guard(lock);
    changed.wait(guard, [&] { return completed >= which; });
}

Living<CUstream_st>& streams() {
    static auto& once = *new Living<CUstream_st>;
    return once;
}

Living<CUevent_st>& events() {
    static auto& once = *new Living<CUevent_st>;
    return once;
}

CUstream make_stream(CUcontext context, unsigned flags, int priority) {
    auto* stream = new CUstream_st;
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    stream->number = stream_count++;
    streams().add(stream);
    return stream;
}

CUstream stream_of(CUstream handle, const char* function) {
    CUcontext context = current_context();
    if (!handle || handle == CU_STREAM_LEGACY) return context->legacy;
    if (handle == CU_STREAM_PER_THREAD) {
        static thread_local std::map<CUcontext, CUstream> own;
        CUstream& stream = own[context];
        if (!stream) stream = make_stream(context, CU_STREAM_DEFAULT, 0);
        return stream;
    }
    if (streams().has(handle)) return handle;
    refuse(CUDA_ERROR_INVALID_HANDLE, function, "the stream was destroyed, or never made");
    return nullptr;
}

CUresult enqueue(CUstream stream, Operation operation, const char* function) {
    {
        std::lock_guard lock(capture_lock());
        if (CUresult refused = refuse_captured_invalid(stream, function)) return refused;
        if (stream->capture) {
            capture_operation(stream, std::move(operation));
            return CUDA_SUCCESS;
        }
        if (stream->legacy) {
            if (CUresult refused = refuse_legacy_in_capture(function)) return refused;
        }
    }
    std::lock_guard lock(order_lock);
    stream->submit(std::move(operation), implied_waits(stream));
    return CUDA_SUCCESS;
}

void wait_for(CUstream stream) {
    stream->wait(last_of(stream).number);
    write_counts_sometimes();
}

void wait_for_all(CUcontext context) {
    for (CUstream stream : streams().all()) {
        if (stream->context == context) stream->wait(last_of(stream).number);
    }
    write_counts_sometimes();
}

}  // namespace stand_in

uint64_t CUstream_st::submit(stand_in::Operation operation, std::vector<stand_in::Ticket> after) {
    std::lock_guard guard(lock);
    if (!thread.joinable()) thread = std::thread([this] { work(); });
    queue.push_back({std::move(operation), std::move(after)});
    changed.notify_all();
    return ++submitted;
}

void CUstream_st::wait(uint64_t ticket) {
    std::unique_lock guard(lock);
    changed.wait(guard, [&] { return completed >= ticket; });
}

void CUstream_st::end() {
    wait(submitted);
    {
        std::lock_guard guard(lock);
        ending = true;
        changed.notify_all();
    }
    if (thread.joinable()) thread.join();
}

void CUstream_st::work() {
    stand_in::use_signal_stack();
    const stand_in::Settings& settings = stand_in::settings();
    unsigned random = settings.seed * 2654435761u + unsigned(number) * 40503u + 1;
    std::unique_lock guard(lock);
    for (;;) {
        changed.wait(guard, [&] { return ending || !queue.empty(); });
        if (queue.empty()) return;
        Queued next = std::move(queue.front());
        queue.pop_front();
        guard.unlock();
        for (const stand_in::Ticket& ticket : next.after) ticket.stream->wait(ticket.number);
        if (settings.delay_us > 0) usleep(useconds_t(rand_r(&random) % settings.delay_us));
        next.operation.run();
        next.operation = {};  // what it held is given back before anybody is told
        guard.lock();
        completed++;
        changed.notify_all();
    }
}

// The calls about streams and events.
#include "capture.hpp"
#include "context.hpp"
#include "stream.hpp"

using namespace stand_in;

namespace {

CUresult check_event(CUevent event, const char* function) {
    if (events().has(event)) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_INVALID_HANDLE, function, "the event was destroyed, or never made");
}

bool is_complete(CUevent event) {
    std::lock_guard lock(event->state->lock);
    return event->state->completed >= event->state->recorded;
}

CUresult refuse_captured_event(CUevent event, const char* function) {
    std::lock_guard lock(capture_lock());
    if (!is_captured(event)) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_CAPTURED_EVENT, function, "the event was last recorded in a capture");
}

}  // namespace

#define STREAM_OF(handle)                          \
    CUstream stream = stream_of(handle, __func__); \
    if (!stream) return CUDA_ERROR_INVALID_HANDLE

#define CHECK_EVENT(event) \
    if (CUresult refused = check_event(event, __func__)) return refused

extern "C" {

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
    CALL_IN_CONTEXT("flags %u, priority %d", flags, priority);
    if (flags > CU_STREAM_NON_BLOCKING) return REFUSE(CUDA_ERROR_INVALID_VALUE, "no such flags: %#x", flags);
    *stream = make_stream(context, flags, priority);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

CUresult cuStreamDestroy(CUstream handle) {
    CALL();
    if (!streams().has(handle)) return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the stream was destroyed, or never made");
    if (CUresult refused = refuse_captured(handle, __func__)) return refused;
    // The object stays: operations of other streams may wait for its last ones.
    handle->end();
    streams().remove(handle);
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    if (CUresult refused = refuse_captured(stream, __func__)) return refused;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for(stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream handle) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    if (CUresult refused = refuse_captured(stream, __func__)) return refused;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    std::lock_guard lock(stream->lock);
    return stream->completed == stream->submitted ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamGetPriority(CUstream handle, int* priority) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    *priority = stream->priority;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned* flags) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    *flags = stream->flags;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext* of) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    *of = stream->context;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
    CALL_IN_CONTEXT("flags %u", flags);
    if (flags & CU_EVENT_INTERPROCESS)
        return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "events between processes are not modelled");
    *event = new CUevent_st(flags);
    events().add(*event);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    CALL();
    if (!events().remove(event)) return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the event was destroyed, or never made");
    delete event;  // what was enqueued holds its state
    return CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream handle, unsigned flags) {
    CALL_IN_CONTEXT("flags %u", flags);
    STREAM_OF(handle);
    CHECK_EVENT(event);
    {
        std::lock_guard lock(capture_lock());
        if (CUresult refused = refuse_captured_invalid(stream, __func__)) return refused;
        if (stream->capture && !(flags & CU_EVENT_RECORD_EXTERNAL)) return record_in_capture(stream, event);
        event->capture_id = 0;
    }
    auto state = event->state;
    if (stream->capture) {
        auto run = [state] {
            uint64_t which;
            {
                std::lock_guard lock(state->lock);
                which = ++state->recorded;
            }
            state->complete(which);
        };
        return enqueue(stream, {OperationKind::Record, "record an event", run}, __func__);
    }
    uint64_t which;
    {
        std::lock_guard lock(state->lock);
        which = ++state->recorded;
    }
    return enqueue(stream, {OperationKind::Record, "record an event", [=] { state->complete(which); }}, __func__);
}

CUresult cuEventRecord(CUevent event, CUstream handle) { return cuEventRecordWithFlags(event, handle, 0); }

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
    CALL_IN_CONTEXT("flags %u", flags);
    STREAM_OF(handle);
    CHECK_EVENT(event);
    {
        std::lock_guard lock(capture_lock());
        if (CUresult refused = refuse_captured_invalid(stream, __func__)) return refused;
        bool external = flags & CU_EVENT_WAIT_EXTERNAL;
        if (!external && (stream->capture || is_captured(event))) return wait_in_capture(stream, event, __func__);
    }
    auto state = event->state;
    if (stream->capture) {
        auto run = [state] {
            uint64_t which;
            {
                std::lock_guard lock(state->lock);
                which = state->recorded;
            }
            state->wait(which);
        };
        return enqueue(stream, {OperationKind::Wait, "wait for an event", run}, __func__);
    }
    uint64_t which;
    {
        std::lock_guard lock(state->lock);
        which = state->recorded;
    }
    return enqueue(stream, {OperationKind::Wait, "wait for an event", [=] { state->wait(which); }}, __func__);
}

CUresult cuEventQuery(CUevent event) {
    CALL();
    CHECK_EVENT(event);
    if (CUresult refused = refuse_captured_event(event, __func__)) return refused;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    return is_complete(event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event) {
    CALL();
    CHECK_EVENT(event);
    if (CUresult refused = refuse_captured_event(event, __func__)) return refused;
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    uint64_t which;
    {
        std::lock_guard lock(event->state->lock);
        which = event->state->recorded;
    }
    event->state->wait(which);
    write_counts_sometimes();
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    CALL();
    CHECK_EVENT(start);
    CHECK_EVENT(end);
    if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) {
        return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the event was made without timing");
    }
    if (!start->state->recorded || !end->state->recorded) {
        return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the event was never recorded");
    }
    if (!is_complete(start) || !is_complete(end)) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(end->state->time - start->state->time).count();
    return CUDA_SUCCESS;
}

#if CUDA_VERSION < 13000  // where it is the only one
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime(milliseconds, start, end);
}
#endif

CUresult cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
    CALL_IN_CONTEXT();
    STREAM_OF(handle);
    auto run = [=] {
        in_host_function = true;
        function(data);
        in_host_function = false;
    };
    return enqueue(stream, {OperationKind::Host, "a function of the host", run}, __func__);
}

// For the driver's companions: a call of theirs that nothing may make while it captures.
__attribute__((visibility("default"))) CUresult stand_in_refuse_in_capture(const char* function) {
    return refuse_in_capture(function);
}

// How the driver's companions put work of their own on a stream: `run` may be called again and again where it is
// captured, and `release` is, once nothing can call it any more.
__attribute__((visibility("default"))) CUresult stand_in_enqueue(CUstream handle, const char* name, void (*run)(void*),
                                                                 void* data, void (*release)(void*)) {
    CALL_IN_CONTEXT("%s", name);
    STREAM_OF(handle);
    std::shared_ptr<void> held(data, release);
    auto call = [=] {
        in_host_function = true;
        run(held.get());
        in_host_function = false;
    };
    return enqueue(stream, {OperationKind::Collective, name, call}, __func__);
}
}

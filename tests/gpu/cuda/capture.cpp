#include "capture.hpp"

#include <algorithm>
#include <set>
#include <thread>

#include "context.hpp"
#include "settings.hpp"
#include "stream.hpp"

CUgraph_st::~CUgraph_st() {
    for (CUgraphNode node : nodes) delete node;
}

namespace stand_in {

struct Capture {
    uint64_t id;
    CUstreamCaptureMode mode;
    std::thread::id owner;
    CUstream origin;
    CUgraph graph;
    bool invalid = false;
};

namespace {

std::vector<Capture*> captures;
uint64_t captures_begun = 0;
thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

std::vector<CUstream> streams_of(const Capture* capture) {
    std::vector<CUstream> all = streams().all();
    all.erase(std::remove_if(all.begin(), all.end(), [&](CUstream stream) { return stream->capture != capture; }),
              all.end());
    return all;
}

Capture* capture_of(uint64_t id) {
    auto found = std::find_if(captures.begin(), captures.end(), [&](Capture* capture) { return capture->id == id; });
    return found == captures.end() ? nullptr : *found;
}

void add_tail(std::vector<CUgraphNode>& tail, const std::vector<CUgraphNode>& more) {
    for (CUgraphNode node : more) {
        if (std::find(tail.begin(), tail.end(), node) == tail.end()) tail.push_back(node);
    }
}

// All that a stream's last nodes come after.
std::set<CUgraphNode> reached_from(const std::vector<CUgraphNode>& tail) {
    std::set<CUgraphNode> reached;
    std::vector<CUgraphNode> open = tail;
    while (!open.empty()) {
        CUgraphNode node = open.back();
        open.pop_back();
        if (reached.insert(node).second) open.insert(open.end(), node->after.begin(), node->after.end());
    }
    return reached;
}

}  // namespace

std::recursive_mutex& capture_lock() {
    static auto& once = *new std::recursive_mutex;
    return once;
}

Program::Program(const CUgraph_st& graph) {
    for (CUgraphNode node : graph.nodes) {
        operations.push_back(node->operation);
        std::vector<size_t> before;
        for (CUgraphNode other : node->after) {
            auto at = std::find(graph.nodes.begin(), graph.nodes.end(), other);
            before.push_back(size_t(at - graph.nodes.begin()));
        }
        after.push_back(before);
    }
}

// Any order that the nodes' dependencies allow; with seed 0 the one in which they were made.
void Program::run(unsigned seed) const {
    std::vector<bool> done(operations.size(), false);
    unsigned random = seed * 2654435761u + 1;
    for (size_t round = 0; round < operations.size(); round++) {
        std::vector<size_t> ready;
        for (size_t at = 0; at < operations.size(); at++) {
            auto is_done = [&](size_t before) { return done[before]; };
            if (!done[at] && std::all_of(after[at].begin(), after[at].end(), is_done)) ready.push_back(at);
            if (!ready.empty() && seed == 0) break;
        }
        size_t chosen = ready[seed ? size_t(rand_r(&random)) % ready.size() : 0];
        operations[chosen].run();
        done[chosen] = true;
    }
}

void capture_operation(CUstream stream, Operation operation) {
    auto* node = new CUgraphNode_st{std::move(operation), stream->capture_tail};
    stream->capture->graph->nodes.push_back(node);
    stream->capture_tail = {node};
}

CUresult refuse_in_capture(const char* function) {
    std::lock_guard lock(capture_lock());
    if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
    for (Capture* capture : captures) {
        bool own = capture->owner == std::this_thread::get_id() && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        bool any = capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (!own && !any) continue;
        capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, function,
                      "this is not allowed while a stream is captured");
    }
    return CUDA_SUCCESS;
}

CUresult refuse_captured(CUstream stream, const char* function) {
    std::lock_guard lock(capture_lock());
    if (!stream->capture) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, function, "this is not allowed on a stream that is captured");
}

CUresult refuse_captured_invalid(CUstream stream, const char* function) {
    if (!stream->capture || !stream->capture->invalid) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, function, "an earlier error made this capture invalid");
}

CUresult refuse_legacy_in_capture(const char* function) {
    for (Capture* capture : captures) {
        for (CUstream stream : streams_of(capture)) {
            if (stream->flags & CU_STREAM_NON_BLOCKING) continue;
            capture->invalid = true;
            return refuse(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, function,
                          "work on the legacy stream would wait for a stream that is captured");
        }
    }
    return CUDA_SUCCESS;
}

CUresult record_in_capture(CUstream stream, CUevent event) {
    event->capture_id = stream->capture->id;
    event->capture_tail = stream->capture_tail;
    return CUDA_SUCCESS;
}

bool is_captured(CUevent event) { return event->capture_id && capture_of(event->capture_id); }

CUresult wait_in_capture(CUstream stream, CUevent event, const char* function) {
    if (!is_captured(event)) {
        if (event->capture_id == 0 && event->state->recorded == 0) return CUDA_SUCCESS;  // nothing to wait for
        stream->capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, function,
                      "a captured stream can't wait for what was recorded outside of its capture");
    }
    Capture* capture = capture_of(event->capture_id);
    if (stream->capture && stream->capture != capture) {
        stream->capture->invalid = capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_MERGE, function, "this would join two captures");
    }
    if (!stream->capture) {
        if (stream->legacy) {
            capture->invalid = true;
            return refuse(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, function, "the legacy stream can't join a capture");
        }
        stream->capture = capture;
        stream->capture_tail.clear();
    }
    add_tail(stream->capture_tail, event->capture_tail);
    return CUDA_SUCCESS;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    CALL_IN_CONTEXT("mode %d", int(mode));
    CUstream stream = stream_of(handle, __func__);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->legacy) return REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream can't be captured");
    std::lock_guard lock(capture_lock());
    if (stream->capture) return REFUSE(CUDA_ERROR_ILLEGAL_STATE, "the stream is captured already");
    auto* capture = new Capture{++captures_begun, mode, std::this_thread::get_id(), stream, new CUgraph_st};
    captures.push_back(capture);
    stream->capture = capture;
    stream->capture_tail.clear();
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    CALL_IN_CONTEXT();
    CUstream stream = stream_of(handle, __func__);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    std::lock_guard lock(capture_lock());
    Capture* capture = stream->capture;
    *graph = nullptr;
    if (!capture) return REFUSE(CUDA_ERROR_ILLEGAL_STATE, "the stream is not captured");
    if (capture->origin != stream)
        return REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture began on another stream");
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->owner != std::this_thread::get_id()) {
        return REFUSE(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began on another thread");
    }
    std::set<CUgraphNode> reached = reached_from(stream->capture_tail);
    bool joined = true;
    for (CUstream other : streams_of(capture)) {
        for (CUgraphNode node : other->capture_tail) joined = joined && reached.count(node);
        other->capture = nullptr;
        other->capture_tail.clear();
    }
    captures.erase(std::find(captures.begin(), captures.end(), capture));
    CUresult result = CUDA_SUCCESS;
    if (capture->invalid) {
        result = REFUSE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error made this capture invalid");
    } else if (!joined) {
        result = REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "another stream was captured and never joined");
    }
    if (result == CUDA_SUCCESS) {
        *graph = capture->graph;
    } else {
        delete capture->graph;
    }
    delete capture;
    return result;
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
    CALL_IN_CONTEXT();
    CUstream stream = stream_of(handle, __func__);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    std::lock_guard lock(capture_lock());
    if (!stream->capture) {
        *status = CU_STREAM_CAPTURE_STATUS_NONE;
    } else {
        *status = stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    }
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCaptureInfo(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                                const CUgraphNode** dependencies, size_t* dependency_count) {
    CUresult result = cuStreamIsCapturing(handle, status);
    if (result != CUDA_SUCCESS || *status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return result;
    CUstream stream = stream_of(handle, __func__);
    std::lock_guard lock(capture_lock());
    if (id) *id = stream->capture->id;
    if (graph) *graph = stream->capture->graph;
    if (dependencies) *dependencies = stream->capture_tail.data();
    if (dependency_count) *dependency_count = stream->capture_tail.size();
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
    CALL("mode %d", int(*mode));
    std::swap(*mode, thread_mode);
    return CUDA_SUCCESS;
}
}

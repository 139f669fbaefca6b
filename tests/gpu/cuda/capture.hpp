// Graphs, and streams whose work goes into one instead of being done.
#pragma once

#include <mutex>
#include <vector>

#include "operation.hpp"

struct CUgraphNode_st {
    stand_in::Operation operation;
    std::vector<CUgraphNode> after;
};

struct CUgraph_st {
    std::vector<CUgraphNode> nodes;  // each behind those that it comes after

    CUgraph_st() = default;
    CUgraph_st(const CUgraph_st&) = delete;
    ~CUgraph_st();
};

namespace stand_in {

// What a graph's launch does; updates make a new one, so that a launch on its way keeps its own.
struct Program {
    std::vector<Operation> operations;
    std::vector<std::vector<size_t>> after;

    explicit Program(const CUgraph_st& graph);
    void run(unsigned seed) const;
};

// The lock of everything that is about captures.
std::recursive_mutex& capture_lock();

// Adds a node behind the stream's last ones. The stream is captured.
void capture_operation(CUstream stream, Operation operation);

// A call that may not be made while this thread (or, in the global mode, any) captures.
CUresult refuse_in_capture(const char* function);
// The same of calls on one stream, which only that stream's capture forbids.
CUresult refuse_captured(CUstream stream, const char* function);
// A captured stream whose capture something forbidden ended.
CUresult refuse_captured_invalid(CUstream stream, const char* function);
// Work on the legacy stream, which would wait for blocking streams that are captured.
CUresult refuse_legacy_in_capture(const char* function);

CUresult record_in_capture(CUstream stream, CUevent event);
// Whether the event was recorded in a capture that goes on.
bool is_captured(CUevent event);
// Makes a stream wait for an event that was recorded in a capture, or a captured stream for any event.
CUresult wait_in_capture(CUstream stream, CUevent event, const char* function);

}  // namespace stand_in

struct CUgraphExec_st {
    std::shared_ptr<stand_in::Program> program;
    CUcontext context;
    unsigned life;                                                         // of the context
    std::shared_ptr<std::mutex> running = std::make_shared<std::mutex>();  // launches of one come one after another
};

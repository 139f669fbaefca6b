// The calls about graphs.
#include <cstring>

#include "capture.hpp"
#include "context.hpp"
#include "launch.hpp"
#include "module.hpp"
#include "settings.hpp"
#include "stream.hpp"

using namespace stand_in;

namespace {

CUgraphNodeType type_of(OperationKind kind) {
    switch (kind) {
        case OperationKind::Kernel:
        case OperationKind::Collective: return CU_GRAPH_NODE_TYPE_KERNEL;
        case OperationKind::Copy: return CU_GRAPH_NODE_TYPE_MEMCPY;
        case OperationKind::Set: return CU_GRAPH_NODE_TYPE_MEMSET;
        case OperationKind::Host: return CU_GRAPH_NODE_TYPE_HOST;
        case OperationKind::Free: return CU_GRAPH_NODE_TYPE_MEM_FREE;
        case OperationKind::Record: return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
        case OperationKind::Wait: return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
        case OperationKind::Graph: return CU_GRAPH_NODE_TYPE_GRAPH;
    }
    return CU_GRAPH_NODE_TYPE_EMPTY;
}

// Whether one can take the other's place in an executable graph.
bool is_alike(const Program& a, const Program& b) {
    if (a.operations.size() != b.operations.size() || a.after != b.after) return false;
    for (size_t at = 0; at < a.operations.size(); at++) {
        if (a.operations[at].kind != b.operations[at].kind) return false;
    }
    return true;
}

}  // namespace

extern "C" {

CUresult cuGraphCreate(CUgraph* graph, unsigned) {
    CALL();
    *graph = new CUgraph_st;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    CALL();
    delete graph;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count_of) {
    CALL();
    size_t room = *count_of;
    *count_of = graph->nodes.size();
    for (size_t at = 0; nodes && at < room && at < graph->nodes.size(); at++) nodes[at] = graph->nodes[at];
    return CUDA_SUCCESS;
}

CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode* nodes, size_t* count_of) {
    CALL();
    size_t room = *count_of, found = 0;
    for (CUgraphNode node : graph->nodes) {
        if (!node->after.empty()) continue;
        if (nodes && found < room) nodes[found] = node;
        found++;
    }
    *count_of = found;
    return CUDA_SUCCESS;
}

#undef cuGraphGetEdges
CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode* from, CUgraphNode* to, size_t* count_of) {
    CALL();
    size_t room = *count_of, found = 0;
    for (CUgraphNode node : graph->nodes) {
        for (CUgraphNode before : node->after) {
            if (from && to && found < room) {
                from[found] = before;
                to[found] = node;
            }
            found++;
        }
    }
    *count_of = found;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* type) {
    CALL();
    *type = type_of(node->operation.kind);
    return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* parameters) {
    CALL();
    const auto& kernel = node->operation.kernel;
    if (!kernel) return REFUSE(CUDA_ERROR_INVALID_VALUE, "this node is no kernel");
    memset(parameters, 0, sizeof *parameters);
    parameters->func = kernel->function;
    parameters->gridDimX = kernel->grid.x;
    parameters->gridDimY = kernel->grid.y;
    parameters->gridDimZ = kernel->grid.z;
    parameters->blockDimX = kernel->block.x;
    parameters->blockDimY = kernel->block.y;
    parameters->blockDimZ = kernel->block.z;
    parameters->sharedMemBytes = kernel->shared_bytes;
    parameters->kernelParams = kernel->parameters.get();
    return CUDA_SUCCESS;
}

CUresult cuGraphDebugDotPrint(CUgraph graph, const char* path, unsigned) {
    CALL("%s", path);
    FILE* file = fopen(path, "w");
    if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
    fprintf(file, "digraph {\n");
    for (CUgraphNode node : graph->nodes) {
        fprintf(file, "  n%p [label=\"%s\"];\n", static_cast<void*>(node), node->operation.name.c_str());
        for (CUgraphNode before : node->after) {
            fprintf(file, "  n%p -> n%p;\n", static_cast<void*>(before), static_cast<void*>(node));
        }
    }
    fprintf(file, "}\n");
    fclose(file);
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    CALL_IN_CONTEXT("%zu nodes, flags %llu", graph->nodes.size(), flags);
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    *executable = new CUgraphExec_st{std::make_shared<Program>(*graph), context, context->lives};
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* parameters) {
    parameters->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    return cuGraphInstantiateWithFlags(executable, graph, parameters->flags);
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
    CALL();
    if (executable->life != executable->context->lives) stop("a graph is destroyed whose context is gone");
    delete executable;  // a launch on its way holds what it needs
    return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec, CUstream handle) {
    CALL_IN_CONTEXT();
    return stream_of(handle, __func__) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    CALL_IN_CONTEXT("%zu nodes", executable->program->operations.size());
    CUstream stream = stream_of(handle, __func__);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    note_graph_launch();
    auto program = executable->program;
    auto running = executable->running;
    auto run = [=] {
        std::lock_guard lock(*running);
        note_graph_begins();
        program->run(settings().seed);
    };
    return enqueue(stream, {OperationKind::Graph, "a graph", run}, __func__);
}

CUresult cuGraphExecUpdate(CUgraphExec executable, CUgraph graph, CUgraphExecUpdateResultInfo* info) {
    CALL_IN_CONTEXT("%zu nodes", graph->nodes.size());
    auto program = std::make_shared<Program>(*graph);
    bool alike = is_alike(*program, *executable->program);
    if (info) {
        memset(info, 0, sizeof *info);
        info->result = alike ? CU_GRAPH_EXEC_UPDATE_SUCCESS : CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    }
    if (!alike) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    executable->program = program;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec executable, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* of) {
    CALL_IN_CONTEXT();
    if (!node->operation.kernel) return REFUSE(CUDA_ERROR_INVALID_VALUE, "the node is no kernel");
    KernelNode kernel = *node->operation.kernel;  // its attributes stay
    kernel.function = of->func;
    kernel.grid = {of->gridDimX, of->gridDimY, of->gridDimZ};
    kernel.block = {of->blockDimX, of->blockDimY, of->blockDimZ};
    kernel.shared_bytes = of->sharedMemBytes;
    Operation operation;
    if (CUresult refused = make_kernel_operation(kernel, of->kernelParams, operation, __func__)) return refused;
    auto program = std::make_shared<Program>(*executable->program);
    for (size_t at = 0; at < program->operations.size(); at++) {
        if (program->operations[at].kernel != node->operation.kernel) continue;
        program->operations[at] = operation;
        executable->program = program;
        return CUDA_SUCCESS;
    }
    return REFUSE(CUDA_ERROR_INVALID_VALUE, "the executable graph has no such kernel");
}
}

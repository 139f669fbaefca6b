// What a stream does, one after another, and what the nodes of a graph are.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "driver_api.hpp"
#include "../simt/kernels.hpp"

namespace stand_in {

enum class OperationKind { Kernel, Copy, Set, Host, Collective, Free, Record, Wait, Graph };

// The values of a launch, kept until it happens.
struct KernelNode {
    CUfunction function;
    uint3 grid, block;
    unsigned shared_bytes;
    std::shared_ptr<void*[]> parameters;
    bool may_begin_early = false;
    uint3 cluster = {1, 1, 1};
};

struct Operation {
    OperationKind kind;
    std::string name;
    std::function<void()> run;  // may be called again and again, where it is a graph's
    std::shared_ptr<KernelNode> kernel = nullptr;
};

}  // namespace stand_in

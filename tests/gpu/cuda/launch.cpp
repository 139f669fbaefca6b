// The calls that start kernels.
#include <cstring>

#include "capture.hpp"
#include "context.hpp"
#include "launch.hpp"
#include "module.hpp"
#include "report.hpp"
#include "settings.hpp"
#include "stream.hpp"

using namespace stand_in;

namespace stand_in {

namespace {

constexpr size_t PARAMETER_ALIGNMENT = 64;  // a tensor map's

// Copies of a launch's values: what is captured is launched long after the caller's are gone.
std::shared_ptr<void*[]> keep(const simt::Kernel& kernel, void** values) {
    size_t count = size_t(kernel.parameters), bytes = 0;
    std::vector<size_t> starts;
    for (size_t at = 0; at < count; at++) {
        starts.push_back(bytes);
        bytes += (kernel.parameter_bytes[at] + PARAMETER_ALIGNMENT - 1) / PARAMETER_ALIGNMENT * PARAMETER_ALIGNMENT;
    }
    // Pointers first, then what they point at, each as aligned as any type wants it.
    size_t pointers_bytes =
        (count * sizeof(void*) + PARAMETER_ALIGNMENT - 1) / PARAMETER_ALIGNMENT * PARAMETER_ALIGNMENT;
    void* room = aligned_alloc(PARAMETER_ALIGNMENT, pointers_bytes + bytes + PARAMETER_ALIGNMENT);
    auto** pointers = static_cast<void**>(room);
    for (size_t at = 0; at < count; at++) {
        pointers[at] = static_cast<char*>(room) + pointers_bytes + starts[at];
        memcpy(pointers[at], values[at], kernel.parameter_bytes[at]);
    }
    return {pointers, [](void** kept) { free(kept); }};
}

CUresult check(const KernelNode& launch, const char* function) {
    const simt::Kernel& kernel = *launch.function->kernel;
    auto [gx, gy, gz] = launch.grid;
    auto [bx, by, bz] = launch.block;
    if (!gx || !gy || !gz || !bx || !by || !bz) {
        return refuse(CUDA_ERROR_INVALID_VALUE, function,
                      "%s: a grid of %u x %u x %u blocks of %u x %u x %u threads is empty", kernel.name, gx, gy, gz, bx,
                      by, bz);
    }
    if (gx > 2147483647 || gy > 65535 || gz > 65535) {
        return refuse(CUDA_ERROR_INVALID_VALUE, function, "%s: %u x %u x %u blocks are too many", kernel.name, gx, gy,
                      gz);
    }
    unsigned long long threads = 1ull * bx * by * bz;
    if (bx > 1024 || by > 1024 || bz > 64 || threads > kernel.threads_max) {
        return refuse(CUDA_ERROR_INVALID_VALUE, function, "%s: %u x %u x %u threads are more than its %u", kernel.name,
                      bx, by, bz, kernel.threads_max);
    }
    auto [cx, cy, cz] = launch.cluster;
    if (!cx || !cy || !cz || gx % cx || gy % cy || gz % cz) {
        return refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE, function,
                      "%s: a grid of %u x %u x %u blocks is not made of clusters of %u x %u x %u", kernel.name, gx, gy,
                      gz, cx, cy, cz);
    }
    if (1ull * cx * cy * cz > simt::CLUSTER_BLOCKS_MAX) {
        return refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE, function,
                      "%s: clusters of %u x %u x %u blocks are larger than every GPU's", kernel.name, cx, cy, cz);
    }
    unsigned blocks = cx * cy * cz;
    if (blocks > 1 && !clusters_at_once(launch.function, blocks, unsigned(threads), launch.shared_bytes)) {
        return refuse(CUDA_ERROR_INVALID_CLUSTER_SIZE, function,
                      "%s: this GPU has no room for a cluster of %u such blocks", kernel.name, blocks);
    }
    if (launch.shared_bytes > launch.function->dynamic_shared_max) {
        return refuse(CUDA_ERROR_INVALID_VALUE, function,
                      "%s: %u bytes of dynamic shared memory, and only %zu were allowed", kernel.name,
                      launch.shared_bytes, launch.function->dynamic_shared_max);
    }
    return CUDA_SUCCESS;
}

}  // namespace

CUresult make_kernel_operation(const KernelNode& of, void** values, Operation& operation, const char* function) {
    if (CUresult refused = check_launch(of.function, function)) return refused;
    if (CUresult refused = check(of, function)) return refused;
    const simt::Kernel* kernel = of.function->kernel;
    if (kernel->parameters && !values)
        return refuse(CUDA_ERROR_INVALID_VALUE, function, "%s: no parameters", kernel->name);
    auto node = std::make_shared<KernelNode>(of);
    node->parameters = keep(*kernel, values);
    simt::Launch launch{kernel, of.grid, of.block};
    launch.dynamic_shared = of.shared_bytes;
    launch.static_shared = of.function->static_shared;
    launch.shared_max = simt::SHARED_MAX;  // checked above
    launch.seed = settings().seed;
    launch.cluster = of.cluster;
    launch.may_begin_early = of.may_begin_early;
    launch.parameters = node->parameters.get();
    int device = of.function->module->context->device;
    auto run = [node, launch, device] {
        if (!shall_run(*launch.kernel, device)) return;
        simt::Launch counted = launch;
        simt::Traffic traffic;
        if (simt::COUNTS) {
            simt::begin_traffic(traffic, device, settings().cache);
            counted.traffic = &traffic;
        }
        simt::run(counted);
        if (simt::COUNTS) simt::end_traffic(traffic);
        note_kernel(launch.kernel->name, traffic);
    };
    operation = {OperationKind::Kernel, kernel->name, run, node};
    return CUDA_SUCCESS;
}

}  // namespace stand_in

namespace {

CUresult launch(const KernelNode& of, CUstream handle, void** values, void** extra, const char* function) {
    CUstream stream = stream_of(handle, function);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (extra) return refuse(CUDA_ERROR_NOT_SUPPORTED, function, "parameters in one buffer are not modelled");
    Operation operation;
    if (CUresult refused = make_kernel_operation(of, values, operation, function)) return refused;
    return enqueue(stream, std::move(operation), function);
}

}  // namespace

extern "C" {

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared_bytes, CUstream stream, void** values, void** extra) {
    CALL_IN_CONTEXT("<<<(%u, %u, %u), (%u, %u, %u), %u>>>", gx, gy, gz, bx, by, bz, shared_bytes);
    return launch({function, {gx, gy, gz}, {bx, by, bz}, shared_bytes, nullptr}, stream, values, extra, __func__);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* of, CUfunction function, void** values, void** extra) {
    CALL_IN_CONTEXT("<<<(%u, %u, %u), (%u, %u, %u), %u>>>, %u attributes", of->gridDimX, of->gridDimY, of->gridDimZ,
                    of->blockDimX, of->blockDimY, of->blockDimZ, of->sharedMemBytes, of->numAttrs);
    bool may_begin_early = false;
    uint3 cluster = {1, 1, 1};
    for (unsigned at = 0; at < of->numAttrs; at++) {
        const CUlaunchAttribute& attribute = of->attrs[at];
        switch (attribute.id) {
            case CU_LAUNCH_ATTRIBUTE_IGNORE:
            case CU_LAUNCH_ATTRIBUTE_PRIORITY: break;
            case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
                may_begin_early = attribute.value.programmaticStreamSerializationAllowed != 0;
                if (may_begin_early && settings().capability_major < 9)
                    return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "this GPU begins no kernel early");
                break;
            case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
                if (settings().capability_major < 9)
                    return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "this GPU has no clusters");
                cluster = {attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z};
                break;
            default: return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "launch attribute %d is not modelled", int(attribute.id));
        }
    }
    KernelNode node{function,
                    {of->gridDimX, of->gridDimY, of->gridDimZ},
                    {of->blockDimX, of->blockDimY, of->blockDimZ},
                    of->sharedMemBytes,
                    nullptr,
                    may_begin_early,
                    cluster};
    return launch(node, of->hStream, values, extra, __func__);
}

CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   CUstream, void**) {
    CALL_IN_CONTEXT();
    return REFUSE(CUDA_ERROR_NOT_SUPPORTED, "blocks of a grid run one after another and can't wait for each other");
}
}

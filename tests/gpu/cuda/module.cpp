#include "module.hpp"

#include <cstdio>
#include <cstring>
#include <elf.h>
#include <mutex>

#include "capture.hpp"
#include "context.hpp"
#include "launch.hpp"
#include "settings.hpp"
#include "stream.hpp"

using namespace stand_in;

namespace {

std::mutex modules_lock;
Living<CUmod_st> modules;
Living<CUfunc_st> functions;

// The latest PTX that a driver reads: 12.4 knows 8.4.
int ptx_version_of(int driver_version) {
    int release = driver_version % 1000 / 10;
    static constexpr int KNOWN[] = {80, 81, 82, 83, 84, 85, 85, 86, 87, 88};
    if (driver_version >= 13000) return 90;
    return KNOWN[release < 9 ? release : 9];
}

CUresult check_target(const Ptx& ptx, const char* function) {
    int capability = settings().capability_major * 10 + settings().capability_minor;
    int latest = ptx_version_of(settings().driver_version);
    if (ptx.version > latest) {
        return refuse(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, function, "PTX %d.%d is later than this driver's %d.%d",
                      ptx.version / 10, ptx.version % 10, latest / 10, latest % 10);
    }
    bool fits = ptx.only_that_target ? ptx.target == capability : ptx.target <= capability;
    if (!fits) {
        return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, function, "PTX for sm_%d%s does not run on sm_%d", ptx.target,
                      ptx.only_that_target ? "a" : "", capability);
    }
    return CUDA_SUCCESS;
}

size_t cubin_bytes(const void* image) {
    auto* header = static_cast<const Elf64_Ehdr*>(image);
    return header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;
}

CUresult load(CUmodule* module, CUcontext context, const void* image, const char* function) {
    auto loaded = std::make_unique<CUmod_st>();
    loaded->context = context;
    auto bytes = static_cast<const char*>(image);
    if (!memcmp(bytes, ELFMAG, SELFMAG)) {
        loaded->cubin.assign(bytes, cubin_bytes(image));
    } else if (!read_ptx(bytes, loaded->ptx)) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, function, "this is neither PTX nor a cubin");
    } else if (CUresult refused = check_target(loaded->ptx, function)) {
        return refused;
    }
    *module = loaded.release();
    modules.add(*module);
    return CUDA_SUCCESS;
}

// Whether text and host build agree on how the kernel is called.
CUresult compare(const EntryText& text, const simt::Kernel& kernel, const char* function) {
    if (int(text.parameter_bytes.size()) != kernel.parameters) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, function, "%s takes %zu parameters in PTX, and %d in the host's build",
                      kernel.name, text.parameter_bytes.size(), kernel.parameters);
    }
    for (int at = 0; at < kernel.parameters; at++) {
        if (text.parameter_bytes[size_t(at)] == kernel.parameter_bytes[at]) continue;
        return refuse(CUDA_ERROR_INVALID_IMAGE, function,
                      "parameter %d of %s has %zu bytes in PTX, and %zu in the host's build", at, kernel.name,
                      text.parameter_bytes[size_t(at)], kernel.parameter_bytes[at]);
    }
    if (text.threads_max && text.threads_max != kernel.threads_max) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, function,
                      "%s has at most %u threads in PTX, and %u in the host's build", kernel.name, text.threads_max,
                      kernel.threads_max);
    }
    return CUDA_SUCCESS;
}

bool cubin_has(const std::string& cubin, const char* name) {
    std::string section = std::string(".text.") + name;
    return memmem(cubin.data(), cubin.size(), section.c_str(), section.size() + 1) != nullptr;
}

// Shared memory that a kernel declares: its section holds that, and from compute capability 9.0 on what the system has of
// each block.
size_t shared_of_cubin(const std::string& cubin, const char* name) {
    auto* header = reinterpret_cast<const Elf64_Ehdr*>(cubin.data());
    auto* sections = reinterpret_cast<const Elf64_Shdr*>(cubin.data() + header->e_shoff);
    const char* names = cubin.data() + sections[header->e_shstrndx].sh_offset;
    for (int at = 0; at < header->e_shnum; at++) {
        if (names + sections[at].sh_name != std::string(".nv.shared.") + name) continue;
        size_t of_system = settings().capability_major >= 9 ? 1024 : 0, bytes = sections[at].sh_size;
        return bytes > of_system ? bytes - of_system : 0;
    }
    return 0;
}

CUresult check_function(CUfunction of, const char* function) {
    if (functions.has(of)) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_INVALID_HANDLE, function, "the function's module was unloaded, or it was never there");
}

int blocks_per_multiprocessor(CUfunction function, int threads, size_t dynamic_shared) {
    constexpr size_t SHARED_OF_MULTIPROCESSOR = 228 * 1024, SHARED_OF_DRIVER = 1024;
    int warps = (threads + 31) / 32;
    if (threads <= 0 || unsigned(threads) > function->kernel->threads_max) return 0;
    size_t shared = dynamic_shared + function->static_shared + SHARED_OF_DRIVER;
    return std::min({2048 / (warps * 32), int(SHARED_OF_MULTIPROCESSOR / shared), 32});
}

}  // namespace

namespace stand_in {

unsigned clusters_at_once(CUfunction function, unsigned blocks, unsigned threads, size_t dynamic_shared) {
    constexpr unsigned PART = 16;
    unsigned each = unsigned(blocks_per_multiprocessor(function, int(threads), dynamic_shared));
    unsigned multiprocessors = unsigned(settings().multiprocessors);
    return multiprocessors / PART * (PART * each / blocks) + multiprocessors % PART * each / blocks;
}

}  // namespace stand_in

#define CHECK_FUNCTION(of) \
    if (CUresult refused = check_function(of, __func__)) return refused

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    CALL_IN_CONTEXT();
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    return load(module, context, image, __func__);
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, CUjit_option* options, void** values) {
    CALL_IN_CONTEXT("%u options", count);
    for (unsigned at = 0; at < count; at++) {
        bool is_log = options[at] == CU_JIT_INFO_LOG_BUFFER || options[at] == CU_JIT_ERROR_LOG_BUFFER;
        if (is_log) *static_cast<char*>(values[at]) = 0;
        bool is_size =
            options[at] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || options[at] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES;
        if (is_size) values[at] = nullptr;  // so much was written
    }
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    return load(module, context, image, __func__);
}

CUresult cuModuleLoad(CUmodule* module, const char* path) {
    CALL_IN_CONTEXT("%s", path);
    FILE* file = fopen(path, "rb");
    if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
    std::string image;
    char piece[4096];
    while (size_t bytes = fread(piece, 1, sizeof piece, file)) image.append(piece, bytes);
    fclose(file);
    return load(module, context, image.c_str(), __func__);
}

CUresult cuModuleUnload(CUmodule module) {
    CALL_IN_CONTEXT();
    if (!modules.remove(module)) return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the module was unloaded, or never loaded");
    if (CUresult refused = refuse_in_capture(__func__)) return refused;
    wait_for_all(context);
    for (auto& [name, function] : module->functions) {
        functions.remove(function);
        delete function;
    }
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    CALL_IN_CONTEXT("%s", name);
    if (!modules.has(module)) return REFUSE(CUDA_ERROR_INVALID_HANDLE, "the module was unloaded, or never loaded");
    std::lock_guard lock(modules_lock);
    auto known = module->functions.find(name);
    if (known != module->functions.end()) {
        *function = known->second;
        return CUDA_SUCCESS;
    }
    auto text = module->ptx.entries.find(name);
    bool is_there = module->cubin.empty() ? text != module->ptx.entries.end() : cubin_has(module->cubin, name);
    if (!is_there) return REFUSE(CUDA_ERROR_NOT_FOUND, "the module has no kernel %s", name);
    const simt::Kernel* kernel = simt::find_kernel(name);
    if (!kernel) return REFUSE(CUDA_ERROR_NOT_FOUND, "the host's build has no kernel %s", name);
    auto* found = new CUfunc_st{kernel, module};
    if (module->cubin.empty()) {
        if (CUresult refused = compare(text->second, *kernel, __func__)) {
            delete found;
            return refused;
        }
        found->static_shared = text->second.static_shared;
    } else {
        found->static_shared = shared_of_cubin(module->cubin, name);
    }
    found->dynamic_shared_max = 48 * 1024 - std::min(found->static_shared, size_t(48 * 1024));
    module->functions[name] = found;
    functions.add(found);
    *function = found;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunctionCount(unsigned* count, CUmodule module) {
    CALL_IN_CONTEXT();
    *count = unsigned(module->ptx.entries.size());
    return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal(CUdeviceptr*, size_t*, CUmodule, const char* name) {
    CALL_IN_CONTEXT("%s", name);
    return REFUSE(CUDA_ERROR_NOT_FOUND, "variables of modules are not modelled: %s", name);
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
    CALL();
    *mode = CU_MODULE_EAGER_LOADING;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule* module, CUfunction function) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    *module = function->module;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char** name, CUfunction function) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    *name = function->kernel->name;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    CALL_IN_CONTEXT("%d", int(attribute));
    CHECK_FUNCTION(function);
    int capability = settings().capability_major * 10 + settings().capability_minor;
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = int(function->kernel->threads_max); break;
        case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = int(function->static_shared); break;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(function->dynamic_shared_max); break;
        case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
        case CU_FUNC_ATTRIBUTE_PTX_VERSION: *value = function->module->ptx.target; break;
        case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = capability; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    CALL_IN_CONTEXT("%d = %d", int(attribute), value);
    CHECK_FUNCTION(function);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || size_t(value) + function->static_shared > simt::SHARED_MAX) {
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "a block of %s can't have %d bytes of dynamic shared memory",
                      function->kernel->name, value);
    }
    function->dynamic_shared_max = size_t(value);
    return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int threads,
                                                              size_t shared, unsigned) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    *blocks = blocks_per_multiprocessor(function, threads, shared);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* threads, CUfunction function,
                                                   CUoccupancyB2DSize shared_of, size_t shared, int limit, unsigned) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    *threads = int(function->kernel->threads_max);
    if (limit > 0 && *threads > limit) *threads = limit;
    if (shared_of) shared = shared_of(*threads);
    *grid = blocks_per_multiprocessor(function, *threads, shared) * settings().multiprocessors;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* threads, CUfunction function, CUoccupancyB2DSize shared_of,
                                          size_t shared, int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, threads, function, shared_of, shared, limit, 0);
}

CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction function, const CUlaunchConfig* of) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    unsigned blocks = 1;
    for (unsigned at = 0; at < of->numAttrs; at++) {
        const CUlaunchAttributeValue& value = of->attrs[at].value;
        if (of->attrs[at].id != CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) continue;
        blocks = value.clusterDim.x * value.clusterDim.y * value.clusterDim.z;
    }
    unsigned long long threads = 1ull * of->blockDimX * of->blockDimY * of->blockDimZ;
    if (of->sharedMemBytes > function->dynamic_shared_max || threads > function->kernel->threads_max || !threads) {
        return REFUSE(CUDA_ERROR_INVALID_VALUE, "%s: no block of %llu threads and %u bytes can be launched",
                      function->kernel->name, threads, of->sharedMemBytes);
    }
    *clusters = int(clusters_at_once(function, blocks, unsigned(threads), of->sharedMemBytes));
    return CUDA_SUCCESS;
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, CUfunction function, int blocks, int) {
    CALL_IN_CONTEXT();
    CHECK_FUNCTION(function);
    size_t share = blocks > 0 ? 228 * 1024 / size_t(blocks) : 0;
    size_t taken = function->static_shared + 1024;
    *bytes = std::min(share > taken ? share - taken : 0, simt::SHARED_MAX - function->static_shared);
    return CUDA_SUCCESS;
}
}

namespace stand_in {

CUresult check_launch(CUfunction function, const char* name) { return check_function(function, name); }

}  // namespace stand_in

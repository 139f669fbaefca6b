// Cases of the self-test: each runs in a process of its own, under several seeds, for many of them must die.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include <cuda.h>

namespace selftest {

enum class Expected {
    Passes,  // under every seed
    Fails,   // under one seed at least: it dies, or what it computes is wrong
    Dies,    // under every seed
};

enum class Builds { Both, Plain, Sanitized, Counted };

struct Case {
    const char* name;
    void (*run)();
    Expected expected;
    const char* message = "";  // that every death has
    Builds builds = Builds::Both;
};

std::vector<Case>& cases();

struct Registration {
    explicit Registration(const Case& of) { cases().push_back(of); }
};

constexpr auto Passes = Expected::Passes;
constexpr auto Fails = Expected::Fails;
constexpr auto Dies = Expected::Dies;
constexpr auto Plain = Builds::Plain;
constexpr auto Sanitized = Builds::Sanitized;
constexpr auto Counted = Builds::Counted;

inline Case make(const char* name, void (*run)(), Expected expected, const char* message = "",
                 Builds builds = Builds::Both) {
    return {name, run, expected, message, builds};
}

constexpr int WRONG_STATUS = 3;
constexpr int REFUSED_STATUS = 4;

// What was computed is wrong: the process says so, and exits.
[[noreturn]] void wrong(const char* file, int line, const char* what);

// ---- a GPU and its kernels ----

template <class T>
std::string parameter_text() {
    if (std::is_class_v<T>) return ".param .align 8 .b8 p[" + std::to_string(sizeof(T)) + "]";
    return ".param .b" + std::to_string(sizeof(T) * 8) + " p";
}

// As much PTX as the driver reads of an entry with such parameters.
template <class... Arguments>
std::string entry_text(const std::string& name, const std::string& body = "") {
    std::string text = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry " + name + "(\n";
    const std::vector<std::string> parameters = {parameter_text<Arguments>()...};
    for (const std::string& parameter : parameters)
        text += (&parameter == &parameters[0] ? "    " : ",\n    ") + parameter;
    return text + "\n)\n{\n" + body + "    ret;\n}\n";
}

struct Grid {
    unsigned blocks = 1, threads = 32, shared_bytes = 0;
};

// The device, its context, and a stream.
class Gpu {
public:
    explicit Gpu(int device = 0);

    CUstream stream;

    template <class T>
    CUdeviceptr put(const std::vector<T>& values) {
        CUdeviceptr at = room(values.size() * sizeof(T));
        require(cuMemcpyHtoDAsync(at, values.data(), values.size() * sizeof(T), stream));
        return at;
    }

    template <class T>
    std::vector<T> get(CUdeviceptr at, size_t count) {
        std::vector<T> values(count);
        require(cuMemcpyDtoHAsync(values.data(), at, count * sizeof(T), stream));
        require(cuStreamSynchronize(stream));
        return values;
    }

    // Bytes, set to zero.
    CUdeviceptr room(size_t bytes);

    CUfunction load(const std::string& name, const std::string& text);

    // `name` without the type of activations.
    template <class... Arguments>
    void launch(const std::string& name, Grid grid, Arguments... arguments) {
        CUfunction function = load(name + "_f32", entry_text<Arguments...>(name + "_f32"));
        void* values[] = {&arguments..., nullptr};
        require(cuLaunchKernel(function, grid.blocks, 1, 1, grid.threads, 1, 1, grid.shared_bytes, stream, values,
                               nullptr));
    }

    // As one cluster of so many blocks; the driver's answer.
    template <class... Arguments>
    CUresult launch_cluster(const std::string& name, unsigned blocks, Grid grid, Arguments... arguments) {
        CUfunction function = load(name + "_f32", entry_text<Arguments...>(name + "_f32"));
        void* values[] = {&arguments..., nullptr};
        CUlaunchAttribute cluster;
        CUlaunchConfig config = config_of(blocks, grid, cluster);
        return cuLaunchKernelEx(&config, function, values, nullptr);
    }

    // Of how many such clusters the device has room at once.
    template <class... Parameters>
    int clusters_at_once(const std::string& name, unsigned blocks, Grid grid) {
        CUfunction function = load(name + "_f32", entry_text<Parameters...>(name + "_f32"));
        CUlaunchAttribute cluster;
        CUlaunchConfig config = config_of(blocks, grid, cluster);
        int clusters = -1;
        require(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(grid.shared_bytes)));
        require(cuOccupancyMaxActiveClusters(&clusters, function, &config));
        return clusters;
    }

    void synchronize() { require(cuStreamSynchronize(stream)); }

private:
    CUlaunchConfig config_of(unsigned cluster_blocks, Grid grid, CUlaunchAttribute& cluster) {
        cluster = {};
        cluster.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        cluster.value.clusterDim = {1, 1, cluster_blocks};
        CUlaunchConfig config{};
        config.gridDimX = config.gridDimY = config.blockDimY = config.blockDimZ = config.numAttrs = 1;
        config.gridDimZ = grid.blocks, config.blockDimX = grid.threads, config.sharedMemBytes = grid.shared_bytes;
        config.hStream = stream, config.attrs = &cluster;
        return config;
    }

    void require(CUresult result);
};

// Of a matrix of 16-bit elements that is copied by boxes of so many rows and 64 columns.
CUtensorMap map_of(CUdeviceptr matrix, size_t rows, size_t columns, unsigned box_rows);

// What the kernels of boxes/cuda.cu are told.
struct Maps {
    CUtensorMap first, second;
};

}  // namespace selftest

// TEST(name, Passes), TEST(name, Dies, "message") or TEST(name, Dies, "message", Sanitized), then a body.
#define TEST(name, ...)                                                                             \
    static void name();                                                                             \
    static selftest::Registration registration_of_##name(selftest::make(#name, name, __VA_ARGS__)); \
    static void name()

#define CHECK(condition) \
    if (!(condition)) selftest::wrong(__FILE__, __LINE__, #condition)
#define OK(call) CHECK((call) == CUDA_SUCCESS)

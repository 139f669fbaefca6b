// Kernels by name, and how one is run.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

#include "fiber.hpp"

namespace simt {

struct Kernel {
    const char* name;
    const char* space;                // the namespace of its variant of its source, `kernels::rms_norm::of_f32::`
    void (*body)(void** parameters);  // what one thread does
    int parameters;
    const size_t* parameter_bytes;
    unsigned threads_max;  // its launch bounds
    const Kernel* next = nullptr;
};

void add_kernel(Kernel& kernel);
const Kernel* first_kernel();
const Kernel* find_kernel(const char* name);

struct Launch {
    const Kernel* kernel;
    uint3 grid;
    uint3 block;
    uint3 cluster = {1, 1, 1};      // blocks that run at once
    size_t dynamic_shared = 0;
    size_t static_shared = 0;       // as the compiled module tells
    size_t shared_max = 48 * 1024;  // more has to be asked for
    unsigned seed = 0;              // of the order of blocks, warps and lanes
    void** parameters = nullptr;
    Traffic* traffic = nullptr;  // where it is counted
    bool may_begin_early = false;  // before the kernel before it has ended

    bool has_clusters() const { return cluster.x * cluster.y * cluster.z > 1; }
};

constexpr unsigned CLUSTER_BLOCKS_MAX = 8;  // that every GPU with clusters can run
constexpr size_t SHARED_MAX = 227 * 1024;

// Runs all blocks of a grid on this thread.
void run(const Launch& launch);

// The kernel that runs on this thread, or null.
const char* running_kernel();

// For a handler of signals: the thread whose stack pointer this is did something wrong.
[[noreturn]] void fail_of(uintptr_t stack_pointer, const char* what);
// Whether touching that address means that its stack is full.
bool overflows(uintptr_t stack_pointer, uintptr_t address);

template <auto entry>
struct Entry;

template <class... Parameter, void (*entry)(Parameter...)>
struct Entry<entry> {
    static_assert((std::is_trivially_copyable_v<Parameter> && ...), "parameters are copied as bytes");

    static void body(void** parameters) { unpack(parameters, std::index_sequence_for<Parameter...>()); }

    template <size_t... at>
    static void unpack([[maybe_unused]] void** parameters, std::index_sequence<at...>) {
        entry(*static_cast<std::remove_const_t<Parameter>*>(parameters[at])...);
    }

    static constexpr size_t parameter_bytes[] = {sizeof(Parameter)..., 0};

    static Kernel kernel(const char* name, const char* space, unsigned threads_max) {
        return {name, space, body, int(sizeof...(Parameter)), parameter_bytes, threads_max};
    }
};

struct Registration {
    explicit Registration(Kernel of) : kernel(of) { add_kernel(kernel); }

    Kernel kernel;
};

}  // namespace simt

#define SIMT_REGISTER(entry, space, threads_max) \
    static simt::Registration registration_of_##entry(simt::Entry<entry>::kernel(#entry, space, threads_max));

// The kernels there are, and the run of a grid.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "cluster.hpp"

namespace simt {

namespace {

Kernel* kernels = nullptr;

[[noreturn]] void refuse(const Launch& launch, const char* why) {
    fprintf(stderr, "stand-in gpu: kernel %s can't be launched: %s\n", launch.kernel->name, why);
    fflush(nullptr);
    abort();
}

void check(const Launch& launch) {
    unsigned long long threads = 1ull * launch.block.x * launch.block.y * launch.block.z;
    size_t shared = launch.dynamic_shared + launch.static_shared;
    if (threads == 0 || threads > BLOCK_THREADS_MAX) refuse(launch, "a block has 1 to 1024 threads");
    if (threads > launch.kernel->threads_max) refuse(launch, "its block is larger than its launch bounds");
    if (shared > SHARED_MAX) refuse(launch, "no block has more than 227 KiB of shared memory");
    if (shared > launch.shared_max) refuse(launch, "more shared memory than 48 KiB must be asked for by an attribute");
}

// The order of blocks depends on the seed and the grid alone: ranks whose blocks wait for each other run the same one.
struct BlockOrder {
    uint64_t count, stride, offset;

    BlockOrder(uint64_t blocks, unsigned seed) : count(blocks), stride(1), offset(0) {
        if (seed == 1) {
            stride = count - 1;
            offset = count - 1;
        } else if (seed >= 2) {
            Random random{seed * 0x9e3779b97f4a7c15u};
            offset = random.next() % count;
            stride = random.next() % count + 1;
        }
        while (std::gcd(stride, count) != 1) stride++;
    }

    uint64_t at(uint64_t turn) const { return (offset + turn * stride) % count; }
};

}  // namespace

void add_kernel(Kernel& kernel) {
    kernel.next = kernels;
    kernels = &kernel;
}

const Kernel* first_kernel() { return kernels; }

const Kernel* find_kernel(const char* name) {
    for (const Kernel* kernel = kernels; kernel; kernel = kernel->next) {
        if (!strcmp(kernel->name, name)) return kernel;
    }
    return nullptr;
}

void run(const Launch& launch) {
    check(launch);
    static thread_local Cluster cluster;
    auto [wide, high, deep] = launch.cluster;
    uint64_t across = launch.grid.x / wide, area = across * (launch.grid.y / high);
    BlockOrder order(area * (launch.grid.z / deep), launch.seed);
    for (uint64_t turn = 0; turn < order.count; turn++) {
        uint64_t at = order.at(turn);
        unsigned x = unsigned(at % across), y = unsigned(at % area / across), z = unsigned(at / area);
        cluster.run(launch, {x * wide, y * high, z * deep});
    }
}

}  // namespace simt

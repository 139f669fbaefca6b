// Collectives between processes, and what becomes of them when one is gone.
#include <chrono>
#include <csignal>
#include <functional>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <nccl.h>

#include "cases.hpp"

using namespace selftest;

namespace {

constexpr int RANKS = 3;

#define NCCL_OK(call) CHECK((call) == ncclSuccess)

struct Rank {
    int number;
    Gpu gpu;
    ncclComm_t comm;

    Rank(int number, const ncclUniqueId& id) : number(number), gpu(number) {
        NCCL_OK(ncclCommInitRank(&comm, RANKS, id, number));
    }

    CUdeviceptr room(size_t bytes) { return gpu.room(bytes); }
};

void* pointer(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

// Each rank in a process of its own; all must end well, but for those that `lost` names.
void on_all_ranks(const std::function<void(Rank&)>& run, int lost = -1) {
    setenv("STAND_IN_GPUS", std::to_string(RANKS).c_str(), 1);
    setenv("STAND_IN_DELAY_US", "300", 1);
    ncclUniqueId id;
    NCCL_OK(ncclGetUniqueId(&id));
    pid_t children[RANKS];
    for (int rank = 0; rank < RANKS; rank++) {
        children[rank] = fork();
        if (children[rank] != 0) continue;
        Rank own(rank, id);
        run(own);
        NCCL_OK(ncclCommDestroy(own.comm));
        fflush(nullptr);
        _exit(0);
    }
    bool well = true;
    for (int rank = 0; rank < RANKS; rank++) {
        int status;
        waitpid(children[rank], &status, 0);
        well = well && (rank == lost || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
    if (!well) exit(1);
}

float value(int rank, size_t at) { return float((at * 7 + size_t(rank) * 13) % 50) - 20.0f; }

// More than the ranks show each other at once.
constexpr size_t MANY = 300'000;

std::vector<float> values_of(int rank, size_t count) {
    std::vector<float> values(count);
    for (size_t at = 0; at < count; at++) values[at] = value(rank, at);
    return values;
}

float sum_at(size_t at) {
    float sum = 0.0f;
    for (int rank = 0; rank < RANKS; rank++) sum += value(rank, at);
    return sum;
}

TEST(an_all_reduce, Passes) {
    on_all_ranks([](Rank& rank) {
        CUdeviceptr x = rank.gpu.put(values_of(rank.number, MANY)), y = rank.room(MANY * 4);
        NCCL_OK(ncclAllReduce(pointer(x), pointer(y), MANY, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
        NCCL_OK(ncclAllReduce(pointer(x), pointer(x), MANY, ncclFloat32, ncclMax, rank.comm, rank.gpu.stream));
        std::vector<float> sums = rank.gpu.get<float>(y, MANY), greatest = rank.gpu.get<float>(x, MANY);
        for (size_t at = 0; at < MANY; at++) {
            CHECK(sums[at] == sum_at(at));
            CHECK(greatest[at] == std::max({value(0, at), value(1, at), value(2, at)}));
        }
    });
}

TEST(an_all_reduce_of_narrow_numbers, Passes) {
    on_all_ranks([](Rank& rank) {
        std::vector<uint16_t> x(1000);
        for (size_t at = 0; at < x.size(); at++) {
            float wide = value(rank.number, at);
            uint32_t bits;
            memcpy(&bits, &wide, 4);
            x[at] = uint16_t(bits >> 16);
        }
        std::vector<int> whole(1000, 1 << rank.number);
        CUdeviceptr at_x = rank.gpu.put(x), at_whole = rank.gpu.put(whole);
        NCCL_OK(ncclAllReduce(pointer(at_x), pointer(at_x), 1000, ncclBfloat16, ncclSum, rank.comm, rank.gpu.stream));
        NCCL_OK(
            ncclAllReduce(pointer(at_whole), pointer(at_whole), 1000, ncclInt32, ncclSum, rank.comm, rank.gpu.stream));
        std::vector<uint16_t> sums = rank.gpu.get<uint16_t>(at_x, 1000);
        for (size_t at = 0; at < 1000; at++) {
            uint32_t bits = uint32_t(sums[at]) << 16;
            float sum;
            memcpy(&sum, &bits, 4);
            CHECK(sum == sum_at(at));  // small whole numbers: exact
        }
        for (int sum : rank.gpu.get<int>(at_whole, 1000)) CHECK(sum == 7);
    });
}

TEST(gathered_scattered_and_broadcast, Passes) {
    on_all_ranks([](Rank& rank) {
        constexpr size_t COUNT = 100'000;
        CUdeviceptr x = rank.gpu.put(values_of(rank.number, COUNT * RANKS));
        CUdeviceptr all = rank.room(COUNT * RANKS * 4), part = rank.room(COUNT * 4);
        NCCL_OK(ncclAllGather(pointer(x), pointer(all), COUNT, ncclFloat32, rank.comm, rank.gpu.stream));
        NCCL_OK(ncclReduceScatter(pointer(x), pointer(part), COUNT, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
        NCCL_OK(ncclBroadcast(pointer(x), pointer(x), COUNT, ncclFloat32, 1, rank.comm, rank.gpu.stream));
        std::vector<float> gathered = rank.gpu.get<float>(all, COUNT * RANKS),
                           scattered = rank.gpu.get<float>(part, COUNT), told = rank.gpu.get<float>(x, COUNT);
        for (size_t at = 0; at < COUNT; at++) {
            for (int other = 0; other < RANKS; other++) CHECK(gathered[size_t(other) * COUNT + at] == value(other, at));
            CHECK(scattered[at] == sum_at(size_t(rank.number) * COUNT + at));
            CHECK(told[at] == value(1, at));
        }
    });
}

TEST(sent_around, Passes) {
    on_all_ranks([](Rank& rank) {
        CUdeviceptr x = rank.gpu.put(values_of(rank.number, MANY)), y = rank.room(MANY * 4);
        int next = (rank.number + 1) % RANKS, before = (rank.number + RANKS - 1) % RANKS;
        NCCL_OK(ncclGroupStart());
        NCCL_OK(ncclSend(pointer(x), MANY, ncclFloat32, next, rank.comm, rank.gpu.stream));
        NCCL_OK(ncclRecv(pointer(y), MANY, ncclFloat32, before, rank.comm, rank.gpu.stream));
        NCCL_OK(ncclGroupEnd());
        CHECK(rank.gpu.get<float>(y, MANY) == values_of(before, MANY));
    });
}

TEST(collectives_in_a_graph, Passes) {
    on_all_ranks([](Rank& rank) {
        constexpr size_t COUNT = 1000;
        CUdeviceptr x = rank.gpu.put(values_of(rank.number, COUNT)), y = rank.room(COUNT * 4);
        rank.gpu.synchronize();
        CUgraph graph;
        CUgraphExec executable;
        OK(cuStreamBeginCapture(rank.gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        OK(cuMemcpyDtoDAsync(y, x, COUNT * 4, rank.gpu.stream));
        for (int at = 0; at < 2; at++) {
            NCCL_OK(ncclAllReduce(pointer(y), pointer(y), COUNT, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
        }
        OK(cuStreamEndCapture(rank.gpu.stream, &graph));
        OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
        for (int at = 0; at < 20; at++) OK(cuGraphLaunch(executable, rank.gpu.stream));
        std::vector<float> sums = rank.gpu.get<float>(y, COUNT);
        for (size_t at = 0; at < COUNT; at++) CHECK(sums[at] == sum_at(at) * RANKS);
    });
}

TEST(ranks_of_one_process, Passes) {
    setenv("STAND_IN_GPUS", "2", 1);
    Gpu gpus[2] = {Gpu(0), Gpu(1)};
    ncclComm_t comms[2];
    NCCL_OK(ncclCommInitAll(comms, 2, nullptr));
    CUdeviceptr x[2];
    for (int rank = 0; rank < 2; rank++) x[rank] = gpus[rank].put(values_of(rank, 10));
    NCCL_OK(ncclGroupStart());
    for (int rank = 0; rank < 2; rank++) {
        NCCL_OK(ncclAllReduce(pointer(x[rank]), pointer(x[rank]), 10, ncclFloat32, ncclSum, comms[rank],
                              gpus[rank].stream));
    }
    NCCL_OK(ncclGroupEnd());
    for (int rank = 0; rank < 2; rank++) {
        std::vector<float> sums = gpus[rank].get<float>(x[rank], 10);
        for (size_t at = 0; at < 10; at++) CHECK(sums[at] == value(0, at) + value(1, at));
    }
}

TEST(arguments_that_are_wrong, Passes) {
    on_all_ranks([](Rank& rank) {
        CUdeviceptr x = rank.room(40);
        std::vector<float> host(10);
        auto reduce = [&](void* at, size_t count, ncclDataType_t type) {
            return ncclAllReduce(at, at, count, type, ncclSum, rank.comm, rank.gpu.stream);
        };
        CHECK(reduce(host.data(), 10, ncclFloat32) == ncclInvalidArgument);
        CHECK(reduce(pointer(x), 11, ncclFloat32) == ncclInvalidArgument);
        CHECK(reduce(pointer(x), 10, ncclFloat8e4m3) == ncclInvalidArgument);
        CHECK(ncclBroadcast(pointer(x), pointer(x), 1, ncclFloat32, RANKS, rank.comm, rank.gpu.stream) ==
              ncclInvalidArgument);
        NCCL_OK(reduce(pointer(x), 10, ncclFloat32));
        rank.gpu.synchronize();
    });
}

TEST(ranks_that_do_different_things, Dies, "does all-reduce of") {
    on_all_ranks([](Rank& rank) {
        CUdeviceptr x = rank.room(400);
        size_t count = rank.number == 1 ? 99 : 100;
        NCCL_OK(ncclAllReduce(pointer(x), pointer(x), count, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
        rank.gpu.synchronize();
    });
}

ncclResult_t error_within(ncclComm_t comm, int milliseconds) {
    ncclResult_t error = ncclSuccess;
    for (int at = 0; at < milliseconds && error == ncclSuccess; at++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        NCCL_OK(ncclCommGetAsyncError(comm, &error));
    }
    return error;
}

// The stream goes on only when the communicator is aborted; the error tells of it before.
TEST(a_rank_that_dies, Passes) {
    on_all_ranks(
        [](Rank& rank) {
            CUdeviceptr x = rank.room(400);
            rank.gpu.synchronize();
            if (rank.number == 2) raise(SIGKILL);
            NCCL_OK(ncclAllReduce(pointer(x), pointer(x), 100, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
            CHECK(error_within(rank.comm, 20'000) == ncclRemoteError);
            CHECK(cuStreamQuery(rank.gpu.stream) == CUDA_ERROR_NOT_READY);
            NCCL_OK(ncclCommAbort(rank.comm));
            rank.gpu.synchronize();
            fflush(nullptr);
            _exit(0);
        },
        2);
}

TEST(a_rank_that_aborts, Passes) {
    on_all_ranks([](Rank& rank) {
        CUdeviceptr x = rank.room(400);
        rank.gpu.synchronize();
        if (rank.number != 2) {
            NCCL_OK(ncclAllReduce(pointer(x), pointer(x), 100, ncclFloat32, ncclSum, rank.comm, rank.gpu.stream));
            CHECK(error_within(rank.comm, 20'000) == ncclRemoteError);
        }
        NCCL_OK(ncclCommAbort(rank.comm));
        CHECK(ncclCommAbort(rank.comm) == ncclInvalidArgument);
        rank.gpu.synchronize();
        fflush(nullptr);
        _exit(0);
    });
}

}  // namespace

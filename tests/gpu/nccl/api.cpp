// The library's calls.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <dirent.h>
#include <map>
#include <random>
#include <signal.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

#include "../cuda/driver_api.hpp"
#include "collective.hpp"

extern "C" {
// Of the stand-in driver.
void stand_in_note_call(const char* function);
void stand_in_count_collective(const char* name, size_t bytes);
bool stand_in_is_device_memory(const void* address, size_t bytes);
CUresult stand_in_enqueue(CUstream stream, const char* name, void (*run)(void*), void* data, void (*release)(void*));
}

using namespace stand_in;

namespace {

constexpr const char* NAME_PREFIX = "stand-in-nccl-";

std::mutex living_lock;
std::map<ncclComm_t, std::shared_ptr<ncclComm>> living;
thread_local std::string last_error;

ncclResult_t refuse(ncclResult_t result, const char* function, const std::string& why) {
    last_error = std::string(function) + ": " + why;
    fprintf(stderr, "stand-in nccl: %s\n", last_error.c_str());
    return result;
}

std::shared_ptr<ncclComm> find(ncclComm_t handle) {
    std::lock_guard lock(living_lock);
    auto found = living.find(handle);
    return found == living.end() ? nullptr : found->second;
}

#define FIND(comm, handle)                         \
    stand_in_note_call(__func__);                  \
    std::shared_ptr<ncclComm> comm = find(handle); \
    if (!comm) return refuse(ncclInvalidArgument, __func__, "the communicator was destroyed, or never made")

// ---- groups ----

struct Pending {
    Work work;
    CUstream stream;
};

struct Group {
    int depth = 0;
    std::vector<Pending> works;
    std::vector<std::shared_ptr<ncclComm>> joining;
};

thread_local Group group;

bool is_transfer(const Work& work) { return work.kind == Kind::Send || work.kind == Kind::Receive; }

struct Batch {
    std::vector<Work> works;
};

void run_batch(void* data) {
    auto* batch = static_cast<Batch*>(data);
    for (const Work& work : batch->works) {
        stand_in_count_collective(name_of(work.kind), work.count * bytes_of(work.type));
    }
    if (is_transfer(batch->works.front())) return run_transfers(batch->works);
    for (const Work& work : batch->works) run_collective(work);
}

ncclResult_t submit(std::vector<Work> works, CUstream stream) {
    const char* name = name_of(works.front().kind);
    auto* batch = new Batch{std::move(works)};
    auto release = [](void* data) { delete static_cast<Batch*>(data); };
    return stand_in_enqueue(stream, name, run_batch, batch, release) == CUDA_SUCCESS ? ncclSuccess
                                                                                     : ncclUnhandledCudaError;
}

// Sends and receives of a group go together, collectives one by one in the order of their calls.
ncclResult_t submit_group(std::vector<Pending> pending) {
    std::map<std::pair<ncclComm*, CUstream>, std::vector<Work>> transfers;
    for (Pending& one : pending) {
        if (is_transfer(one.work)) {
            transfers[{one.work.comm.get(), one.stream}].push_back(one.work);
        } else if (ncclResult_t result = submit({one.work}, one.stream)) {
            return result;
        }
    }
    for (auto& [where, works] : transfers) {
        if (ncclResult_t result = submit(std::move(works), where.second)) return result;
    }
    return ncclSuccess;
}

ncclResult_t check(const Work& work, const char* function) {
    ncclComm& comm = *work.comm;
    if (comm.aborted) return refuse(ncclInvalidUsage, function, "the communicator was aborted");
    if (comm.error != ncclSuccess) return refuse(comm.error, function, comm.last_error());
    if (work.type < 0 || work.type >= ncclNumTypes) return refuse(ncclInvalidArgument, function, "no such type");
    if (work.root < 0 || work.root >= comm.ranks) return refuse(ncclInvalidArgument, function, "no such root or peer");
    bool reduces = work.kind == Kind::AllReduce || work.kind == Kind::ReduceScatter || work.kind == Kind::Reduce;
    if (reduces && !can_reduce(work.type, work.reduction)) {
        return refuse(ncclInvalidArgument, function, "this type can't be reduced like that");
    }
    size_t sends = work.send_bytes(), receives = work.receive_bytes();
    if (sends && !stand_in_is_device_memory(work.send, sends)) {
        return refuse(ncclInvalidArgument, function, "what is sent is not within memory of a device");
    }
    if (receives && !stand_in_is_device_memory(work.receive, receives)) {
        return refuse(ncclInvalidArgument, function, "what is received is not within memory of a device");
    }
    return ncclSuccess;
}

ncclResult_t enqueue(const Work& work, cudaStream_t stream, const char* function) {
    if (ncclResult_t refused = check(work, function)) return refused;
    if (work.count == 0 && !is_transfer(work)) return ncclSuccess;
    if (group.depth > 0) {
        group.works.push_back({work, stream});
        return ncclSuccess;
    }
    return submit({work}, stream);
}

// ---- communicators ----

ncclResult_t begin(ncclComm_t* handle, int ranks, const ncclUniqueId& id, int rank, const char* function) {
    CUdevice device;
    if (cuCtxGetDevice(&device) != CUDA_SUCCESS) return refuse(ncclUnhandledCudaError, function, "no GPU is current");
    auto comm = std::make_shared<ncclComm>();
    comm->device = device;
    if (ncclResult_t result = comm->join(id, rank, ranks)) return refuse(result, function, comm->last_error());
    {
        std::lock_guard lock(living_lock);
        living[comm.get()] = comm;
    }
    *handle = comm.get();
    if (group.depth > 0) {
        group.joining.push_back(comm);
        return ncclSuccess;
    }
    return comm->wait_for_all();
}

// Segments of processes that died before all had come.
void remove_stale_segments() {
    DIR* folder = opendir("/dev/shm");
    if (!folder) return;
    while (dirent* entry = readdir(folder)) {
        if (strncmp(entry->d_name, NAME_PREFIX, strlen(NAME_PREFIX)) != 0) continue;
        int process = atoi(entry->d_name + strlen(NAME_PREFIX));
        if (process > 0 && kill(process, 0) != 0 && errno == ESRCH)
            shm_unlink((std::string("/") + entry->d_name).c_str());
    }
    closedir(folder);
}

void forget(const std::shared_ptr<ncclComm>& comm) {
    std::lock_guard lock(living_lock);
    living.erase(comm.get());
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
    stand_in_note_call(__func__);
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    stand_in_note_call(__func__);
    remove_stale_segments();
    std::random_device random;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/%s%d-%08x%08x", NAME_PREFIX, getpid(), random(), random());
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
    stand_in_note_call(__func__);
    return begin(comm, ranks, id, rank, __func__);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
    stand_in_note_call(__func__);
    if (config && config->magic != NCCL_API_MAGIC)
        return refuse(ncclInvalidArgument, __func__, "the config is not initialised");
    if (config && config->size > sizeof *config)
        return refuse(ncclInvalidArgument, __func__, "the config is of a later version");
    return begin(comm, ranks, id, rank, __func__);
}

ncclResult_t ncclCommInitAll(ncclComm_t* comms, int count, const int* devices) {
    stand_in_note_call(__func__);
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    CUcontext before;
    cuCtxGetCurrent(&before);
    ncclGroupStart();
    ncclResult_t result = ncclSuccess;
    for (int rank = 0; rank < count && result == ncclSuccess; rank++) {
        CUcontext context;
        bool there = cuDevicePrimaryCtxRetain(&context, devices ? devices[rank] : rank) == CUDA_SUCCESS;
        result = there && cuCtxSetCurrent(context) == CUDA_SUCCESS ? ncclSuccess : ncclUnhandledCudaError;
        if (result == ncclSuccess) result = begin(&comms[rank], count, id, rank, __func__);
    }
    ncclResult_t ended = ncclGroupEnd();
    cuCtxSetCurrent(before);
    return result ? result : ended;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
    FIND(comm, handle);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
    FIND(comm, handle);
    // Operations on their way hold the communicator.
    {
        std::lock_guard lock(comm->lock);
        comm->leave(Presence::Left);
    }
    forget(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
    FIND(comm, handle);
    comm->leave(Presence::Aborted);
    forget(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
    FIND(comm, handle);
    *error = comm->error;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t handle, int* count) {
    FIND(comm, handle);
    *count = comm->ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t handle, int* device) {
    FIND(comm, handle);
    *device = comm->device;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t handle, int* rank) {
    FIND(comm, handle);
    *rank = comm->rank;
    return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess: return "no error";
        case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case ncclInternalError: return "internal error - please report this issue to the NCCL developers";
        case ncclInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case ncclRemoteError: return "remote process exited or there was a network error";
        case ncclInProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}

const char* ncclGetLastError(ncclComm_t handle) {
    std::shared_ptr<ncclComm> comm = find(handle);
    return comm && comm->error != ncclSuccess ? comm->last_error() : last_error.c_str();
}

ncclResult_t ncclMemAlloc(void** address, size_t bytes) {
    stand_in_note_call(__func__);
    CUdeviceptr at;
    if (cuMemAlloc(&at, bytes) != CUDA_SUCCESS) return ncclUnhandledCudaError;
    *address = reinterpret_cast<void*>(at);
    return ncclSuccess;
}

ncclResult_t ncclMemFree(void* address) {
    stand_in_note_call(__func__);
    return cuMemFree(reinterpret_cast<CUdeviceptr>(address)) == CUDA_SUCCESS ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclCommRegister(const ncclComm_t handle, void* address, size_t bytes, void** registration) {
    FIND(comm, handle);
    if (!stand_in_is_device_memory(address, bytes))
        return refuse(ncclInvalidArgument, __func__, "not within memory of a device");
    *registration = address;
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t handle, void*) {
    FIND(comm, handle);
    return ncclSuccess;
}

// As where the hardware can't do it: there is no window, and all goes the usual way.
ncclResult_t ncclCommWindowRegister(ncclComm_t handle, void* address, size_t bytes, ncclWindow_t* window, int) {
    FIND(comm, handle);
    if (!stand_in_is_device_memory(address, bytes))
        return refuse(ncclInvalidArgument, __func__, "not within memory of a device");
    *window = nullptr;
    return ncclSuccess;
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t handle, ncclWindow_t) {
    FIND(comm, handle);
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t reduction,
                           ncclComm_t handle, cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::AllReduce, send, receive, count, type, reduction, 0}, stream, __func__);
}

ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t reduction,
                        int root, ncclComm_t handle, cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::Reduce, send, receive, count, type, reduction, root}, stream, __func__);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t handle, cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::Broadcast, send, receive, count, type, ncclSum, root}, stream, __func__);
}

ncclResult_t ncclBcast(void* at, size_t count, ncclDataType_t type, int root, ncclComm_t handle, cudaStream_t stream) {
    return ncclBroadcast(at, at, count, type, root, handle, stream);
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t handle,
                           cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::AllGather, send, receive, count, type, ncclSum, 0}, stream, __func__);
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t reduction, ncclComm_t handle, cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::ReduceScatter, send, receive, count, type, reduction, 0}, stream, __func__);
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::Send, send, nullptr, count, type, ncclSum, peer}, stream, __func__);
}

ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
    FIND(comm, handle);
    return enqueue({comm, Kind::Receive, nullptr, receive, count, type, ncclSum, peer}, stream, __func__);
}

ncclResult_t ncclGroupStart() {
    stand_in_note_call(__func__);
    group.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
    stand_in_note_call(__func__);
    if (group.depth == 0) return refuse(ncclInvalidUsage, __func__, "no group was started");
    if (--group.depth > 0) return ncclSuccess;
    auto joining = std::move(group.joining);
    auto works = std::move(group.works);
    group = {};
    for (const auto& comm : joining) {
        if (ncclResult_t result = comm->wait_for_all()) return result;
    }
    return submit_group(std::move(works));
}
}

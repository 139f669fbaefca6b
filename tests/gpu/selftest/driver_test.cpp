// The driver's rules: what it does late, what it refuses, and what it notices.
#include <atomic>
#include <chrono>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "cases.hpp"

using namespace selftest;

namespace {

constexpr size_t COUNT = 1000;

void refused(CUresult result, CUresult expected) {
    const char *got = "?", *wanted = "?";
    cuGetErrorName(result, &got);
    cuGetErrorName(expected, &wanted);
    if (result != expected) fprintf(stderr, "%s instead of %s\n", got, wanted);
    CHECK(result == expected);
}

std::vector<float> ones(size_t count) { return std::vector<float>(count, 1.0f); }

bool all_are(const std::vector<float>& values, float expected) {
    for (float value : values) {
        if (value != expected) return false;
    }
    return true;
}

// ---- streams and events ----

// A stream that does nothing before `open` is set.
struct Gate {
    std::atomic<bool> open{false};

    static void wait(void* gate) {
        while (!static_cast<Gate*>(gate)->open) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    void close(CUstream stream) { OK(cuLaunchHostFunc(stream, wait, this)); }
};

TEST(work_is_done_late, Passes) {
    Gpu gpu;
    Gate gate;
    CUdeviceptr y = gpu.room(COUNT * 4);
    gpu.synchronize();
    gate.close(gpu.stream);
    gpu.launch("fill", {4, 128, 0}, y, 5.0f, int(COUNT));
    CHECK(cuStreamQuery(gpu.stream) == CUDA_ERROR_NOT_READY);
    CHECK(*reinterpret_cast<float*>(y) == 0.0f);
    gate.open = true;
    gpu.synchronize();
    CHECK(cuStreamQuery(gpu.stream) == CUDA_SUCCESS);
    CHECK(all_are(gpu.get<float>(y, COUNT), 5.0f));
}

TEST(an_event_orders_streams, Passes) {
    Gpu gpu;
    CUstream other;
    CUevent event;
    Gate gate;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CUdeviceptr x = gpu.room(COUNT * 4), y = gpu.room(COUNT * 4);
    gate.close(gpu.stream);
    gpu.launch("fill", {4, 128, 0}, x, 5.0f, int(COUNT));
    OK(cuEventRecord(event, gpu.stream));
    OK(cuStreamWaitEvent(other, event, 0));
    OK(cuMemcpyDtoDAsync(y, x, COUNT * 4, other));
    CHECK(cuEventQuery(event) == CUDA_ERROR_NOT_READY);
    gate.open = true;
    OK(cuEventSynchronize(event));
    OK(cuStreamSynchronize(other));
    CHECK(all_are(gpu.get<float>(y, COUNT), 5.0f));
}

TEST(without_an_event_streams_are_not_ordered, Fails) {
    Gpu gpu;
    CUstream other;
    Gate gate;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CUdeviceptr x = gpu.room(COUNT * 4), y = gpu.room(COUNT * 4);
    gate.close(gpu.stream);
    gpu.launch("fill", {4, 128, 0}, x, 5.0f, int(COUNT));
    OK(cuMemcpyDtoDAsync(y, x, COUNT * 4, other));
    OK(cuStreamSynchronize(other));
    gate.open = true;
    CHECK(all_are(gpu.get<float>(y, COUNT), 5.0f));
}

TEST(the_legacy_stream_waits_for_blocking_ones, Passes) {
    Gpu gpu;
    CUstream blocking;
    Gate gate;
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CUdeviceptr x = gpu.room(4);
    gpu.synchronize();
    gate.close(blocking);
    OK(cuMemsetD32Async(x, 7, 1, blocking));
    std::thread opener([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        gate.open = true;
    });
    int value = 0;
    OK(cuMemcpyDtoH(&value, x, 4));
    opener.join();
    CHECK(value == 7);
}

TEST(times_between_events, Passes) {
    Gpu gpu;
    CUevent start, end;
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    OK(cuEventRecord(start, gpu.stream));
    OK(cuLaunchHostFunc(
        gpu.stream, [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }, nullptr));
    OK(cuEventRecord(end, gpu.stream));
    gpu.synchronize();
    float milliseconds;
    OK(cuEventElapsedTime(&milliseconds, start, end));
    CHECK(milliseconds >= 19.0f);
    OK(cuEventDestroy(start));
    refused(cuEventDestroy(start), CUDA_ERROR_INVALID_HANDLE);
}

TEST(no_calls_from_the_devices_functions, Passes) {
    Gpu gpu;
    static CUresult answer;
    OK(cuLaunchHostFunc(gpu.stream, [](void*) { answer = cuCtxSynchronize(); }, nullptr));
    gpu.synchronize();
    CHECK(answer == CUDA_ERROR_NOT_PERMITTED);
}

TEST(no_context_on_another_thread, Passes) {
    Gpu gpu;
    CUresult answer;
    std::thread([&] { answer = cuStreamSynchronize(gpu.stream); }).join();
    refused(answer, CUDA_ERROR_INVALID_CONTEXT);
}

// ---- copies and memory ----

TEST(pageable_memory_is_taken_over, Passes) {
    Gpu gpu;
    Gate gate;
    CUdeviceptr x = gpu.room(COUNT * 4);
    gate.close(gpu.stream);
    {
        std::vector<float> values = ones(COUNT);
        OK(cuMemcpyHtoDAsync(x, values.data(), COUNT * 4, gpu.stream));
        values.assign(COUNT, 2.0f);
    }
    gate.open = true;
    CHECK(all_are(gpu.get<float>(x, COUNT), 1.0f));
}

TEST(pinned_memory_is_read_late, Passes) {
    Gpu gpu;
    Gate gate;
    CUdeviceptr x = gpu.room(COUNT * 4);
    void* room;
    OK(cuMemHostAlloc(&room, COUNT * 4, 0));
    auto* values = static_cast<float*>(room);
    std::fill(values, values + COUNT, 1.0f);
    gate.close(gpu.stream);
    OK(cuMemcpyHtoDAsync(x, values, COUNT * 4, gpu.stream));
    std::fill(values, values + COUNT, 2.0f);
    gate.open = true;
    CHECK(all_are(gpu.get<float>(x, COUNT), 2.0f));
    OK(cuMemcpyDtoHAsync(values, x, COUNT * 4, gpu.stream));
    gpu.synchronize();
    OK(cuMemFreeHost(values));
}

TEST(a_copy_out_of_bounds, Passes) {
    Gpu gpu;
    CUdeviceptr x = gpu.room(100), y = gpu.room(50);
    std::vector<char> host(200);
    refused(cuMemcpyHtoDAsync(x, host.data(), 101, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    refused(cuMemcpyDtoHAsync(host.data(), x + 50, 51, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    refused(cuMemcpyDtoDAsync(y, x, 100, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    refused(cuMemsetD8Async(y, 0, 51, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    refused(cuMemsetD32Async(y + 2, 0, 1, gpu.stream), CUDA_ERROR_INVALID_VALUE);
    refused(cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(host.data()), host.data(), 10), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemcpyHtoDAsync(x + 50, host.data(), 50, gpu.stream));
}

TEST(memory_is_not_zero, Passes) {
    Gpu gpu;
    CUdeviceptr x;
    OK(cuMemAlloc(&x, 100));
    for (unsigned char byte : gpu.get<unsigned char>(x, 100)) CHECK(byte == 0xcd);
}

TEST(large_memory_set_to_zero, Passes) {
    Gpu gpu;
    constexpr size_t BYTES = (3 << 20) + 5000;
    CUdeviceptr x;
    OK(cuMemAlloc(&x, BYTES));
    OK(cuMemsetD8Async(x, 1, BYTES, gpu.stream));
    OK(cuMemsetD8Async(x + 100, 0, BYTES - 300, gpu.stream));
    std::vector<char> bytes = gpu.get<char>(x, BYTES);
    for (size_t at = 0; at < BYTES; at++) CHECK(bytes[at] == (at < 100 || at >= BYTES - 200));
    OK(cuMemFree(x));
}

TEST(freed_twice, Dies, "was freed before") {
    Gpu gpu;
    CUdeviceptr x = gpu.room(100);
    OK(cuMemFree(x));
    cuMemFree(x);
}

TEST(freed_within, Dies, "is not the start of an allocation") {
    Gpu gpu;
    cuMemFree(gpu.room(100) + 10);
}

TEST(a_copy_after_free, Dies, "was freed before") {
    Gpu gpu;
    CUdeviceptr x = gpu.room(100);
    char host[10];
    OK(cuMemFree(x));
    cuMemcpyDtoH(host, x, 10);
}

TEST(a_copy_after_free_in_order, Dies, "was freed before") {
    Gpu gpu;
    Gate gate;
    CUdeviceptr x;
    OK(cuMemAllocAsync(&x, 100, gpu.stream));
    gate.close(gpu.stream);
    OK(cuMemsetD8Async(x, 1, 100, gpu.stream));
    OK(cuMemFreeAsync(x, gpu.stream));
    cuMemsetD8Async(x, 2, 100, gpu.stream);
}

TEST(a_write_behind_small_memory, Dies, "bytes of memory were written", Plain) {
    Gpu gpu;
    CUdeviceptr x = gpu.room(10 * 4);
    gpu.launch("fill", {1, 32, 0}, x, 1.0f, 11);
    OK(cuMemFree(x));
}

TEST(out_of_memory, Passes) {
    setenv("STAND_IN_MEMORY", "1M", 1);
    Gpu gpu;
    size_t free_bytes, total_bytes, after;
    CUdeviceptr x, y;
    OK(cuMemGetInfo(&free_bytes, &total_bytes));
    CHECK(free_bytes == 1 << 20 && total_bytes == 1 << 20);
    OK(cuMemAlloc(&x, 600 << 10));
    refused(cuMemAlloc(&y, 600 << 10), CUDA_ERROR_OUT_OF_MEMORY);
    OK(cuMemGetInfo(&after, &total_bytes));
    CHECK(after == (1024 - 600) << 10);
    OK(cuMemFree(x));
    OK(cuMemAlloc(&y, 1 << 20));
}

TEST(rows_of_a_matrix, Passes) {
    Gpu gpu;
    std::vector<unsigned char> from(64);
    for (size_t at = 0; at < 64; at++) from[at] = static_cast<unsigned char>(at);
    CUdeviceptr x = gpu.put(from), y = gpu.room(64);
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = x, copy.srcPitch = 8, copy.srcXInBytes = 2, copy.srcY = 1;
    copy.dstDevice = y, copy.dstPitch = 4;
    copy.WidthInBytes = 3, copy.Height = 5;
    OK(cuMemcpy2DAsync(&copy, gpu.stream));
    std::vector<unsigned char> to = gpu.get<unsigned char>(y, 64);
    for (size_t row = 0; row < 5; row++) {
        for (size_t column = 0; column < 3; column++) CHECK(to[row * 4 + column] == (row + 1) * 8 + column + 2);
    }
}

// ---- modules and launches ----

TEST(parameters_that_differ, Passes) {
    Gpu gpu;
    CUmodule module;
    CUfunction function;
    for (const std::string& text :
         {entry_text<CUdeviceptr, float>("fill_f32"), entry_text<CUdeviceptr, float, long long>("fill_f32")}) {
        OK(cuModuleLoadData(&module, text.c_str()));
        refused(cuModuleGetFunction(&function, module, "fill_f32"), CUDA_ERROR_INVALID_IMAGE);
    }
    OK(cuModuleLoadData(&module, entry_text<CUdeviceptr, float, int>("fill_f32").c_str()));
    refused(cuModuleGetFunction(&function, module, "add_one_f32"), CUDA_ERROR_NOT_FOUND);
    OK(cuModuleGetFunction(&function, module, "fill_f32"));
    int threads;
    OK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function));
    CHECK(threads == 1024);
}

TEST(launch_bounds_that_differ, Passes) {
    Gpu gpu;
    CUmodule module;
    CUfunction function;
    std::string text = entry_text<CUdeviceptr, float, int>("fill_f32");
    text.replace(text.find("{"), 1, ".maxntid 512, 1, 1\n{");
    OK(cuModuleLoadData(&module, text.c_str()));
    refused(cuModuleGetFunction(&function, module, "fill_f32"), CUDA_ERROR_INVALID_IMAGE);
}

TEST(text_for_other_gpus, Passes) {
    setenv("STAND_IN_CAPABILITY", "8.6", 1);
    setenv("STAND_IN_DRIVER", "12040", 1);
    Gpu gpu;
    CUmodule module;
    auto load = [&](const char* head) { return cuModuleLoadData(&module, head); };
    OK(load(".version 8.4\n.target sm_80\n.address_size 64\n"));
    OK(load(".version 8.4\n.target sm_86\n.address_size 64\n"));
    refused(load(".version 8.4\n.target sm_90\n.address_size 64\n"), CUDA_ERROR_NO_BINARY_FOR_GPU);
    refused(load(".version 8.5\n.target sm_80\n.address_size 64\n"), CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    refused(load("int main() {}"), CUDA_ERROR_INVALID_IMAGE);
}

TEST(text_for_this_gpu_only, Passes) {
    Gpu gpu;  // 9.0
    CUmodule module;
    OK(cuModuleLoadData(&module, ".version 8.0\n.target sm_90a\n.address_size 64\n"));
    refused(cuModuleLoadData(&module, ".version 8.0\n.target sm_80a\n.address_size 64\n"),
            CUDA_ERROR_NO_BINARY_FOR_GPU);
}

TEST(launches_that_are_too_large, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    int at = 0;
    void* values[] = {&y, &at};
    CUfunction function = gpu.load("write_shared_at_f32", entry_text<CUdeviceptr, int>("write_shared_at_f32"));
    auto launch = [&](unsigned blocks, unsigned threads, unsigned shared) {
        return cuLaunchKernel(function, 1, blocks, 1, threads, 1, 1, shared, gpu.stream, values, nullptr);
    };
    OK(launch(1, 32, 48 * 1024));
    refused(launch(1, 33, 0), CUDA_ERROR_INVALID_VALUE);
    refused(launch(0, 32, 0), CUDA_ERROR_INVALID_VALUE);
    refused(launch(70000, 32, 0), CUDA_ERROR_INVALID_VALUE);
    refused(launch(1, 32, 48 * 1024 + 4), CUDA_ERROR_INVALID_VALUE);
    refused(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 * 1024),
            CUDA_ERROR_INVALID_VALUE);
    OK(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 * 1024));
    OK(launch(1, 32, 100 * 1024));
    refused(launch(1, 32, 100 * 1024 + 4), CUDA_ERROR_INVALID_VALUE);
    gpu.synchronize();
}

TEST(static_shared_memory_counts, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(128);
    void* values[] = {&y};
    std::string body = "    .shared .align 4 .b8 room[32000];\n";
    CUfunction function = gpu.load("much_static_f32", entry_text<CUdeviceptr>("much_static_f32", body));
    int bytes;
    OK(cuFuncGetAttribute(&bytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function));
    CHECK(bytes == 32000);
    refused(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 20000, gpu.stream, values, nullptr), CUDA_ERROR_INVALID_VALUE);
    OK(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 17000, gpu.stream, values, nullptr));
    gpu.synchronize();
}

// Launches a kernel that may begin before the one before it has ended.
void fill_early(const char* kernel) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(COUNT * 4);
    float value = 3.0f;
    int count = int(COUNT);
    void* values[] = {&y, &value, &count};
    CUfunction function = gpu.load(kernel, entry_text<CUdeviceptr, float, int>(kernel));
    CUlaunchAttribute attribute{};
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    CUlaunchConfig config{4, 1, 1, 128, 1, 1, 0, gpu.stream, &attribute, 1};
    OK(cuLaunchKernelEx(&config, function, values, nullptr));
    CHECK(all_are(gpu.get<float>(y, COUNT), 3.0f));
}

TEST(a_launch_with_attributes, Passes) { fill_early("fill_after_f32"); }

TEST(a_kernel_that_is_early_and_does_not_wait, Dies, "exits without waiting for that") { fill_early("fill_f32"); }

TEST(functions_that_are_not_modelled, Passes) {
    Gpu gpu;
    refused(cuCtxResetPersistingL2Cache(), CUDA_ERROR_NOT_SUPPORTED);
}

// ---- graphs ----

CUgraphExec capture(Gpu& gpu, CUdeviceptr y, int additions) {
    CUgraph graph;
    CUgraphExec executable;
    CUfunction function = gpu.load("add_one_f32", entry_text<CUdeviceptr, int>("add_one_f32"));
    int count = int(COUNT);
    void* values[] = {&y, &count};
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int at = 0; at < additions; at++) {
        OK(cuLaunchKernel(function, 4, 1, 1, 128, 1, 1, 0, gpu.stream, values, nullptr));
    }
    OK(cuStreamEndCapture(gpu.stream, &graph));
    size_t nodes = 0;
    OK(cuGraphGetNodes(graph, nullptr, &nodes));
    CHECK(nodes == size_t(additions));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphDestroy(graph));
    return executable;
}

TEST(a_graph_is_replayed, Passes) {
    Gpu gpu;
    CUdeviceptr y = gpu.room(COUNT * 4);
    CUgraphExec graph = capture(gpu, y, 3);
    OK(cuGraphUpload(graph, gpu.stream));
    CHECK(all_are(gpu.get<float>(y, COUNT), 0.0f));
    for (int at = 0; at < 10; at++) OK(cuGraphLaunch(graph, gpu.stream));
    OK(cuGraphExecDestroy(graph));
    CHECK(all_are(gpu.get<float>(y, COUNT), 30.0f));
}

TEST(a_graph_is_updated, Passes) {
    Gpu gpu;
    CUdeviceptr x = gpu.room(COUNT * 4), y = gpu.room(COUNT * 4);
    CUgraphExec graph = capture(gpu, x, 1);
    CUfunction function = gpu.load("add_one_f32", entry_text<CUdeviceptr, int>("add_one_f32"));
    CUgraph other;
    int count = int(COUNT);
    void* values[] = {&y, &count};
    CUgraphExecUpdateResultInfo info;
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuLaunchKernel(function, 8, 1, 1, 64, 1, 1, 0, gpu.stream, values, nullptr));
    OK(cuStreamEndCapture(gpu.stream, &other));
    OK(cuGraphExecUpdate(graph, other, &info));
    OK(cuGraphLaunch(graph, gpu.stream));
    CHECK(all_are(gpu.get<float>(x, COUNT), 0.0f));
    CHECK(all_are(gpu.get<float>(y, COUNT), 1.0f));
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD8Async(x, 0, 4, gpu.stream));
    OK(cuStreamEndCapture(gpu.stream, &other));
    refused(cuGraphExecUpdate(graph, other, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
}

TEST(streams_join_a_capture, Passes) {
    Gpu gpu;
    CUstream other;
    CUevent forked, joined;
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&forked, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&joined, CU_EVENT_DISABLE_TIMING));
    CUdeviceptr x = gpu.room(8);
    gpu.synchronize();
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD32Async(x, 1, 1, gpu.stream));
    OK(cuEventRecord(forked, gpu.stream));
    OK(cuStreamWaitEvent(other, forked, 0));
    OK(cuMemsetD32Async(x + 4, 2, 1, other));
    OK(cuEventRecord(joined, other));
    refused(cuEventQuery(joined), CUDA_ERROR_CAPTURED_EVENT);
    OK(cuStreamWaitEvent(gpu.stream, joined, 0));
    OK(cuMemcpyDtoDAsync(x, x + 4, 4, gpu.stream));
    OK(cuStreamEndCapture(gpu.stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    CHECK(gpu.get<int>(x, 2)[0] == 0);
    OK(cuGraphLaunch(executable, gpu.stream));
    CHECK(gpu.get<int>(x, 2)[0] == 2);
}

// Under other seeds than 0 nodes run in any order that their dependencies allow.
TEST(a_branch_that_nothing_orders, Fails) {
    Gpu gpu;
    CUstream other;
    CUevent forked, joined;
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&forked, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&joined, CU_EVENT_DISABLE_TIMING));
    CUdeviceptr x = gpu.room(4);
    gpu.synchronize();
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuEventRecord(forked, gpu.stream));
    OK(cuStreamWaitEvent(other, forked, 0));
    for (unsigned at = 1; at <= 4; at++) {
        OK(cuMemsetD32Async(x, at, 1, gpu.stream));
        OK(cuMemsetD32Async(x, at + 10, 1, other));
    }
    OK(cuEventRecord(joined, other));
    OK(cuStreamWaitEvent(gpu.stream, joined, 0));
    OK(cuStreamEndCapture(gpu.stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphLaunch(executable, gpu.stream));
    CHECK(gpu.get<int>(x, 1)[0] == 14);
}

// What a capture forbids, one at a time; each makes it invalid.
void forbidden(CUresult (*call)(Gpu&), CUresult expected) {
    Gpu gpu;
    CUgraph graph;
    gpu.room(4);
    gpu.synchronize();
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    refused(call(gpu), expected);
    refused(cuStreamEndCapture(gpu.stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

TEST(no_waiting_in_a_capture, Passes) {
    forbidden([](Gpu& gpu) { return cuStreamSynchronize(gpu.stream); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    forbidden([](Gpu& gpu) { return cuStreamQuery(gpu.stream); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    forbidden([](Gpu&) { return cuCtxSynchronize(); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

TEST(no_memory_in_a_capture, Passes) {
    static CUdeviceptr x;
    forbidden([](Gpu&) { return cuMemAlloc(&x, 10); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    forbidden([](Gpu& gpu) { return cuMemAllocAsync(&x, 10, gpu.stream); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

TEST(no_copies_on_the_legacy_stream_in_a_capture, Passes) {
    forbidden([](Gpu&) { return cuMemcpyDtoD(0, 0, 0); }, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

TEST(no_events_from_outside_of_a_capture, Passes) {
    static CUevent event;
    Gpu gpu;
    OK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(cuEventRecord(event, gpu.stream));
    forbidden([](Gpu& gpu) { return cuStreamWaitEvent(gpu.stream, event, 0); }, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
}

TEST(a_stream_that_never_rejoins, Passes) {
    Gpu gpu;
    CUstream other;
    CUevent forked;
    CUgraph graph;
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&forked, CU_EVENT_DISABLE_TIMING));
    CUdeviceptr x = gpu.room(8);
    gpu.synchronize();
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuEventRecord(forked, gpu.stream));
    OK(cuStreamWaitEvent(other, forked, 0));
    OK(cuMemsetD32Async(x, 2, 1, other));
    refused(cuStreamEndCapture(gpu.stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
}

TEST(a_replay_after_free, Dies, "freed") {
    Gpu gpu;
    CUgraph graph;
    CUgraphExec executable;
    CUdeviceptr y = gpu.room(COUNT * 4);
    gpu.synchronize();
    OK(cuStreamBeginCapture(gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD32Async(y, 1, COUNT, gpu.stream));
    OK(cuStreamEndCapture(gpu.stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuMemFree(y));
    OK(cuGraphLaunch(executable, gpu.stream));
    gpu.synchronize();
}

// ---- counts ----

TEST(calls_are_counted, Passes) {
    std::string path = "/tmp/stand-in-counts-" + std::to_string(getpid()) + ".json";
    setenv("STAND_IN_COUNT", path.c_str(), 1);
    Gpu gpu;
    CUdeviceptr y = gpu.room(COUNT * 4);
    CUgraphExec graph = capture(gpu, y, 3);
    for (int at = 0; at < 2; at++) OK(cuGraphLaunch(graph, gpu.stream));
    CUdeviceptr late;
    OK(cuMemAlloc(&late, 4));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    gpu.synchronize();
    FILE* file = fopen(path.c_str(), "r");
    CHECK(file);
    std::string text(10000, 0);
    text.resize(fread(&text[0], 1, text.size(), file));
    fclose(file);
    unlink(path.c_str());
    CHECK(text.find("\"add_one_f32\": 6") != std::string::npos);
    CHECK(text.find("\"cuGraphLaunch\": 2") != std::string::npos);
    CHECK(text.find("\"allocations_after_first_graph_launch\": 1") != std::string::npos);
}

// ---- between processes ----

void tell(int to, const void* bytes, size_t count) { CHECK(write(to, bytes, count) == ssize_t(count)); }
void hear(int from, void* bytes, size_t count) { CHECK(read(from, bytes, count) == ssize_t(count)); }

// Two processes, each with memory that the other opened; their kernels wait for each other's words.
TEST(kernels_of_two_processes_talk, Passes) {
    int there[2], back[2];
    CHECK(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    bool is_first = child != 0;
    int to = is_first ? there[1] : back[1], from = is_first ? back[0] : there[0];
    Gpu gpu;
    CUdeviceptr mine = gpu.room(4), theirs;
    gpu.synchronize();
    CUipcMemHandle my_handle, their_handle;
    OK(cuIpcGetMemHandle(&my_handle, mine));
    refused(cuIpcOpenMemHandle(&theirs, my_handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_ERROR_INVALID_CONTEXT);
    tell(to, &my_handle, sizeof my_handle);
    hear(from, &their_handle, sizeof their_handle);
    OK(cuIpcOpenMemHandle(&theirs, their_handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    gpu.launch("ping", {1, 32, 0}, mine, theirs, int(is_first), 50);
    gpu.synchronize();
    char done = 1;
    tell(to, &done, 1);
    hear(from, &done, 1);
    OK(cuIpcCloseMemHandle(theirs));
    if (!is_first) _exit(0);
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(a_wait_for_what_never_comes, Dies, "waited for more than 1 s") {
    setenv("STAND_IN_SPIN_SECONDS", "1", 1);
    Gpu gpu;
    CUdeviceptr x = gpu.room(4), y = gpu.room(4);
    gpu.launch("ping", {1, 32, 0}, x, y, 0, 1);
    gpu.synchronize();
}

// ---- tensor maps ----

// What a tensor map is made of; right, but for what a case changes.
struct Tiling {
    CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    cuuint32_t rank = 2;
    size_t offset = 0;
    cuuint64_t sizes[2] = {128, 32}, strides[1] = {256};
    cuuint32_t box[2] = {64, 8}, steps[2] = {1, 1};
    CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
    CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
    CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    size_t misplaced = 0;  // the map itself

    CUresult encode(CUdeviceptr matrix) const {
        alignas(64) char room[256];
        auto* map = reinterpret_cast<CUtensorMap*>(room + misplaced);
        return cuTensorMapEncodeTiled(map, type, rank, reinterpret_cast<void*>(matrix + offset), sizes, strides, box,
                                      steps, interleave, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE, fill);
    }
};

void check_tiling(CUresult expected, void (*change)(Tiling&)) {
    Gpu gpu;
    Tiling tiling;
    CUdeviceptr matrix = gpu.room(32 * 256);
    OK(tiling.encode(matrix));
    change(tiling);
    refused(tiling.encode(matrix), expected);
}

TEST(a_map_that_is_not_aligned, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.misplaced = 32; });
}
TEST(a_map_of_a_matrix_that_is_not_aligned, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.offset = 8; });
}
TEST(a_map_of_a_matrix_that_is_not_there, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.sizes[1] = 33; });
}
TEST(a_map_of_no_rows, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.sizes[1] = 0; });
}
TEST(a_map_of_rows_that_overlap, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.strides[0] = 128; });
}
TEST(a_map_of_rows_that_are_not_aligned, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.sizes[0] = 120, of.strides[0] = 248; });
}
TEST(a_map_of_boxes_that_are_too_long, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.box[1] = 257; });
}
TEST(a_map_of_boxes_wider_than_their_swizzle, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.box[0] = 128; });
}
TEST(a_map_of_six_dimensions, Passes) {
    check_tiling(CUDA_ERROR_INVALID_VALUE, [](Tiling& of) { of.rank = 6; });
}
TEST(maps_that_are_not_modelled, Passes) {
    constexpr CUresult REFUSED = CUDA_ERROR_NOT_SUPPORTED;
    check_tiling(REFUSED, [](Tiling& of) { of.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT64; });
    check_tiling(REFUSED, [](Tiling& of) { of.rank = 1; });
    check_tiling(REFUSED, [](Tiling& of) { of.steps[1] = 2; });
    check_tiling(REFUSED, [](Tiling& of) { of.box[0] = 32; });
    check_tiling(REFUSED, [](Tiling& of) { of.interleave = CU_TENSOR_MAP_INTERLEAVE_16B; });
    check_tiling(REFUSED, [](Tiling& of) { of.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; });
    check_tiling(REFUSED, [](Tiling& of) { of.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA; });
}
TEST(a_map_for_a_gpu_that_copies_no_boxes, Passes) {
    setenv("STAND_IN_CAPABILITY", "8.0", 1);
    Gpu gpu;
    refused(Tiling().encode(gpu.room(32 * 256)), CUDA_ERROR_NOT_SUPPORTED);
}

}  // namespace

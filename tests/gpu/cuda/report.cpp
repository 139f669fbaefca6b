#include "report.hpp"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

#include "settings.hpp"

namespace stand_in {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto WRITE_EVERY = std::chrono::milliseconds(200);

using Tally = std::map<std::string, uint64_t>;

constexpr size_t COUNTERS = 5;

struct KernelRun {
    const char* name;
    simt::Traffic traffic;
};

// A replayed step: what the host asks for from one launch of a graph to the next, and what a stream does from one graph's
// beginning to the next one's. The host may be ahead.
struct Replay {
    Tally of[COUNTERS];
    std::vector<KernelRun> kernels;
};

struct Counts {
    std::mutex lock;
    Tally of[COUNTERS];
    std::atomic<uint64_t> graph_launches{0}, graphs_begun{0};
    Tally calls;          // since the last launch of a graph
    Replay replay;        // that goes on, without calls
    Replay whole_replay;  // the last one that is over
    uint64_t allocations = 0, allocated_bytes = 0, late_allocations = 0;
    Clock::time_point written{};
};

constexpr const char* COUNTER_NAMES[COUNTERS] = {"calls", "kernels", "collectives", "copies", "copied_bytes"};

Counts& counts() {
    static Counts& once = *[] {
        atexit(write_counts);
        return new Counts;
    }();
    return once;
}

bool counting() { return !settings().counts_path.empty(); }

std::mutex last_traffic_lock;
simt::Traffic last_traffic;

FILE* trace_file() {
    static FILE* file = settings().trace_path.empty() ? nullptr : fopen(settings().trace_path.c_str(), "a");
    return file;
}

void trace(const char* function, const char* details) {
    FILE* file = trace_file();
    if (!file) return;
    auto now = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
    fprintf(file, "%d %ld %lld %s %s\n", getpid(), syscall(SYS_gettid), (long long)now, function, details);
    fflush(file);
}

void write_tallies(FILE* file, const Tally (&of)[COUNTERS]) {
    for (size_t counter = 0; counter < COUNTERS; counter++) {
        fprintf(file, "  \"%s\": {", COUNTER_NAMES[counter]);
        const char* comma = "";
        for (const auto& [name, number] : of[counter]) {
            fprintf(file, "%s\n    \"%s\": %llu", comma, name.c_str(), (unsigned long long)number);
            comma = ",";
        }
        fprintf(file, "%s},\n", *comma ? "\n  " : "");
    }
}

// In the order in which they ran.
void write_kernels(FILE* file, const std::vector<KernelRun>& kernels) {
    fprintf(file, "  \"kernels_in_order\": [");
    const char* comma = "";
    for (const auto& [name, of] : kernels) {
        fprintf(file, "%s\n    {\"name\": \"%s\"", comma, name);
        auto field = [&](const char* of, uint64_t value) {
            if (simt::COUNTS) fprintf(file, ", \"%s\": %llu", of, (unsigned long long)value);
        };
        field("read", of.read_sectors * simt::SECTOR_BYTES);
        field("written", of.written_sectors * simt::SECTOR_BYTES);
        field("kept", of.kept_sectors * simt::SECTOR_BYTES);
        field("by_block", of.block_sectors * simt::SECTOR_BYTES);
        field("asked_to_read", of.asked_to_read);
        field("asked_to_write", of.asked_to_write);
        field("peer_read", of.peer_read);
        field("peer_written", of.peer_written);
        field("tensor_operations", of.tensor_operations);
        fprintf(file, "}");
        comma = ",";
    }
    fprintf(file, "]\n");
}

void write_as_json(FILE* file, Counts& of) {
    fprintf(file, "{\n");
    write_tallies(file, of.of);
    fprintf(file, "  \"replay\": {\n");
    write_tallies(file, of.whole_replay.of);
    write_kernels(file, of.whole_replay.kernels);
    fprintf(file, "  },\n");
    fprintf(file, "  \"allocations\": %llu,\n", (unsigned long long)of.allocations);
    fprintf(file, "  \"allocated_bytes\": %llu,\n", (unsigned long long)of.allocated_bytes);
    fprintf(file, "  \"allocations_after_first_graph_launch\": %llu\n}\n", (unsigned long long)of.late_allocations);
}

}  // namespace

void note_call(const char* function) {
    trace(function, "");
    count(Counter::Calls, function);
}

void note_call(const char* function, const char* format, ...) {
    if (trace_file()) {
        char details[512];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(details, sizeof details, format, arguments);
        va_end(arguments);
        trace(function, details);
    }
    count(Counter::Calls, function);
}

CUresult refuse(CUresult result, const char* function, const char* format, ...) {
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    fprintf(stderr, "stand-in gpu: %s: %s (error %d)\n", function, why, int(result));
    trace(function, why);
    return result;
}

void stop(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "stand-in gpu: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    fflush(nullptr);
    abort();
}

void count(Counter counter, const char* name, uint64_t by) {
    if (!counting()) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    all.of[int(counter)][name] += by;
    (counter == Counter::Calls ? all.calls : all.replay.of[int(counter)])[name] += by;
}

void note_kernel(const char* name, const simt::Traffic& traffic) {
    {
        std::lock_guard lock(last_traffic_lock);
        last_traffic = traffic;
    }
    if (!counting()) return;
    count(Counter::Kernels, name);
    Counts& all = counts();
    if (all.graphs_begun == 0) return;
    std::lock_guard lock(all.lock);
    all.replay.kernels.push_back({name, traffic});
}

void note_collective(const char* name, size_t bytes) {
    if (!counting()) return;
    count(Counter::Collectives, name);
    count(Counter::CopiedBytes, name, bytes);
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    simt::Traffic traffic;
    traffic.asked_to_read = bytes;
    if (all.graphs_begun > 0) all.replay.kernels.push_back({name, traffic});
}

bool shall_run(const simt::Kernel& kernel, int device) {
    if (!settings().sample) return true;
    auto is_of = [&](const char* operation) { return strstr(kernel.space, operation) != nullptr; };
    if (is_of("::choose::")) return true;
    bool is_everywhere = is_of("::embed::") || is_of("::all_reduce") || is_of("::all_gather::");
    return counts().graphs_begun == 1 && (device == 0 || is_everywhere);
}

void note_graph_launch() {
    if (!counting() && !settings().sample) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    if (all.graph_launches++ > 0) all.whole_replay.of[int(Counter::Calls)] = all.calls;
    all.calls.clear();
}

void note_graph_begins() {
    if (!counting() && !settings().sample) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    if (all.graphs_begun++ > 0) {
        std::swap(all.replay.of[int(Counter::Calls)], all.whole_replay.of[int(Counter::Calls)]);
        all.whole_replay = std::move(all.replay);
    }
    all.replay = {};
}

void note_allocation(size_t bytes) {
    if (!counting()) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    all.allocations++;
    all.allocated_bytes += bytes;
    all.late_allocations += all.graph_launches > 0;
}

void write_counts() {
    if (!counting()) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    const std::string& path = settings().counts_path;
    std::string partial = path + ".partial" + std::to_string(getpid());
    FILE* file = fopen(partial.c_str(), "w");
    if (!file) return;
    write_as_json(file, all);
    fclose(file);
    rename(partial.c_str(), path.c_str());
    all.written = Clock::now();
}

void write_counts_sometimes() {
    if (!counting()) return;
    {
        std::lock_guard lock(counts().lock);
        if (Clock::now() - counts().written < WRITE_EVERY) return;
    }
    write_counts();
}

}  // namespace stand_in

extern "C" {

simt::Traffic stand_in_last_traffic() {
    std::lock_guard lock(stand_in::last_traffic_lock);
    return stand_in::last_traffic;
}

void stand_in_note_call(const char* function) { stand_in::note_call(function); }

void stand_in_count_collective(const char* name, size_t bytes) {
    stand_in::note_collective(name, bytes);
}
}

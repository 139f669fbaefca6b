#include "report.hpp"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>

#include "settings.hpp"

namespace stand_in {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto WRITE_EVERY = std::chrono::milliseconds(200);

struct Counts {
    std::mutex lock;
    std::map<std::string, uint64_t> of[5];
    bool graph_launched = false;
    uint64_t allocations = 0, allocated_bytes = 0, late_allocations = 0;
    Clock::time_point written{};
};

constexpr const char* COUNTER_NAMES[] = {"calls", "kernels", "collectives", "copies", "copied_bytes"};

Counts& counts() {
    static Counts& once = *[] {
        atexit(write_counts);
        return new Counts;
    }();
    return once;
}

bool counting() { return !settings().counts_path.empty(); }

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

void write_as_json(FILE* file, Counts& of) {
    fprintf(file, "{\n");
    for (size_t counter = 0; counter < std::size(COUNTER_NAMES); counter++) {
        fprintf(file, "  \"%s\": {", COUNTER_NAMES[counter]);
        const char* comma = "";
        for (const auto& [name, number] : of.of[counter]) {
            fprintf(file, "%s\n    \"%s\": %llu", comma, name.c_str(), (unsigned long long)number);
            comma = ",";
        }
        fprintf(file, "%s},\n", *comma ? "\n  " : "");
    }
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
}

void note_graph_launch() {
    if (!counting()) return;
    std::lock_guard lock(counts().lock);
    counts().graph_launched = true;
}

void note_allocation(size_t bytes) {
    if (!counting()) return;
    Counts& all = counts();
    std::lock_guard lock(all.lock);
    all.allocations++;
    all.allocated_bytes += bytes;
    all.late_allocations += all.graph_launched;
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

void stand_in_note_call(const char* function) { stand_in::note_call(function); }

void stand_in_count_collective(const char* name, size_t bytes) {
    stand_in::count(stand_in::Counter::Collectives, name);
    stand_in::count(stand_in::Counter::CopiedBytes, name, bytes);
}
}

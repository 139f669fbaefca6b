// Runs all cases, or one of them: `selftest` and `selftest NAME`.
#include <algorithm>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.hpp"

namespace selftest {

std::vector<Case>& cases() {
    static auto& all = *new std::vector<Case>;
    return all;
}

void wrong(const char* file, int line, const char* what) {
    fprintf(stderr, "wrong: %s at %s:%d\n", what, file, line);
    fflush(nullptr);
    _exit(WRONG_STATUS);
}

Gpu::Gpu(int number) {
    CUdevice device;
    CUcontext context;
    require(cuInit(0));
    require(cuDeviceGet(&device, number));
    require(cuDevicePrimaryCtxRetain(&context, device));
    require(cuCtxSetCurrent(context));
    require(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
}

CUdeviceptr Gpu::room(size_t bytes) {
    CUdeviceptr at;
    require(cuMemAlloc(&at, bytes));
    require(cuMemsetD8Async(at, 0, bytes, stream));
    return at;
}

CUfunction Gpu::load(const std::string& name, const std::string& text) {
    CUmodule module;
    CUfunction function;
    require(cuModuleLoadData(&module, text.c_str()));
    require(cuModuleGetFunction(&function, module, name.c_str()));
    return function;
}

void Gpu::require(CUresult result) {
    const char* name = nullptr;
    if (result == CUDA_SUCCESS) return;
    cuGetErrorName(result, &name);
    fprintf(stderr, "the driver refused: %s\n", name);
    fflush(nullptr);
    _exit(REFUSED_STATUS);
}

CUtensorMap map_of(CUdeviceptr matrix, size_t rows, size_t columns, unsigned box_rows) {
    CUtensorMap map;
    cuuint64_t sizes[] = {columns, rows}, strides[] = {columns * 2};
    cuuint32_t box[] = {64, box_rows}, steps[] = {1, 1};
    OK(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, reinterpret_cast<void*>(matrix), sizes, strides,
                              box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
    return map;
}

namespace {

constexpr int SEEDS = 3;

struct Outcome {
    bool right;    // ended well
    bool wrong;    // told that what was computed is wrong
    bool refused;  // by the driver: the case did not come to its point
    std::string output;
};

Outcome run(const char* program, const Case& of, int seed) {
    int ends[2];
    if (pipe(ends)) abort();
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        setenv("STAND_IN_SEED", std::to_string(seed).c_str(), 1);
        execl(program, program, of.name, nullptr);
        _exit(127);
    }
    close(ends[1]);
    Outcome outcome{};
    char piece[4096];
    while (ssize_t bytes = read(ends[0], piece, sizeof piece)) {
        if (bytes < 0) break;
        outcome.output.append(piece, size_t(bytes));
    }
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    outcome.right = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    outcome.wrong = WIFEXITED(status) && WEXITSTATUS(status) == WRONG_STATUS;
    outcome.refused = WIFEXITED(status) && WEXITSTATUS(status) == REFUSED_STATUS;
    return outcome;
}

// Whether the case did as it should; prints what it did otherwise.
bool holds(const char* program, const Case& of) {
    int failures = 0;
    std::string outputs;
    bool expected_deaths = true;
    for (int seed = 0; seed < SEEDS; seed++) {
        Outcome outcome = run(program, of, seed);
        outputs += "seed " + std::to_string(seed) + ": " + outcome.output;
        if (outcome.right) continue;
        failures++;
        bool has_message = !outcome.refused && outcome.output.find(of.message) != std::string::npos;
        expected_deaths = expected_deaths && (outcome.wrong ? of.expected != Expected::Dies : has_message);
    }
    bool held = of.expected == Expected::Passes  ? failures == 0
                : of.expected == Expected::Fails ? failures > 0 && expected_deaths
                                                 : failures == SEEDS && expected_deaths;
    if (!held) printf("%s\n", outputs.c_str());
    return held;
}

bool is_built(const Case& of) {
#if defined(STAND_IN_COUNTS)
    return of.builds == Builds::Counted;  // the rest is as in the plain build
#elif defined(__SANITIZE_ADDRESS__)
    return of.builds == Builds::Both || of.builds == Builds::Sanitized;
#else
    return of.builds == Builds::Both || of.builds == Builds::Plain;
#endif
}

int run_all(const char* program) {
    int passed = 0, failed = 0;
    for (const Case& of : cases()) {
        if (!is_built(of)) continue;
        bool held = holds(program, of);
        printf("%s %s\n", held ? "ok  " : "FAIL", of.name);
        fflush(stdout);
        (held ? passed : failed)++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

}  // namespace

}  // namespace selftest

int main(int count, char** arguments) {
    using namespace selftest;
    if (count == 1) return run_all(arguments[0]);
    for (const Case& of : cases()) {
        if (strcmp(of.name, arguments[1]) != 0) continue;
        of.run();
        fflush(nullptr);
        _exit(0);
    }
    fprintf(stderr, "there is no case %s\n", arguments[1]);
    return 2;
}

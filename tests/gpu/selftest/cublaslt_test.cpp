// Products by the stand-in's cuBLASLt: rightly asked for, and in every wrong way.
#include <cmath>

#include <cublasLt.h>

#include "cases.hpp"

using namespace selftest;

namespace {

constexpr size_t WORKSPACE_BYTES = 1 << 20;

#define LT_OK(call) CHECK((call) == CUBLAS_STATUS_SUCCESS)
#define LT_REFUSED(call, status) CHECK((call) == CUBLAS_STATUS_##status)

uint16_t bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bf16(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

// Small whole numbers: sums of them are exact in f32.
float number(size_t at) { return float(at * 7 % 11) - 5.0f; }

std::vector<uint16_t> bf16_numbers(size_t count) {
    std::vector<uint16_t> numbers(count);
    for (size_t at = 0; at < count; at++) numbers[at] = bf16(number(at));
    return numbers;
}

void* pointer(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

// A linear layer: y [rows, outputs] in f32 from x [rows, inputs] and w [outputs, inputs] in bf16. A case may spoil it
// before it chooses and multiplies.
struct Linear {
    uint64_t rows = 5, inputs = 24, outputs = 10;
    Gpu gpu;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t computation;
    cublasLtMatrixLayout_t w_layout, x_layout, y_layout;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t chosen{};
    CUdeviceptr w, x, y, workspace;
    size_t workspace_bytes = WORKSPACE_BYTES;
    float alpha = 1.0f, beta = 0.0f;

    Linear() {
        LT_OK(cublasLtCreate(&handle));
        LT_OK(cublasLtMatmulDescCreate(&computation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_T));
        LT_OK(cublasLtMatrixLayoutCreate(&w_layout, CUDA_R_16BF, inputs, outputs, int64_t(inputs)));
        LT_OK(cublasLtMatrixLayoutCreate(&x_layout, CUDA_R_16BF, inputs, rows, int64_t(inputs)));
        LT_OK(cublasLtMatrixLayoutCreate(&y_layout, CUDA_R_32F, outputs, rows, int64_t(outputs)));
        LT_OK(cublasLtMatmulPreferenceCreate(&preference));
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(WORKSPACE_BYTES));
        w = gpu.put(bf16_numbers(outputs * inputs));
        x = gpu.put(bf16_numbers(rows * inputs));
        y = gpu.put(std::vector<float>(rows * outputs, NAN));
        workspace = gpu.room(WORKSPACE_BYTES);
    }

    template <class T>
    void set(cublasLtMatmulDescAttributes_t attribute, T value) {
        LT_OK(cublasLtMatmulDescSetAttribute(computation, attribute, &value, sizeof value));
    }

    template <class T>
    void prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
        LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    }

    template <class T>
    void lay(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
        LT_OK(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value));
    }

    cublasStatus_t choose() {
        int found = 0;
        cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, computation, w_layout, x_layout, y_layout,
                                                               y_layout, preference, 1, &chosen, &found);
        CHECK(status != CUBLAS_STATUS_SUCCESS || found == 1);
        return status;
    }

    cublasStatus_t multiply() {
        return cublasLtMatmul(handle, computation, &alpha, pointer(w), w_layout, pointer(x), x_layout, &beta,
                              pointer(y), y_layout, pointer(y), y_layout, &chosen.algo, pointer(workspace),
                              workspace_bytes, gpu.stream);
    }

    float expected(uint64_t row, uint64_t output) const {
        float sum = 0.0f;
        for (uint64_t at = 0; at < inputs; at++) sum += number(row * inputs + at) * number(output * inputs + at);
        return sum;
    }

    void check(float factor = 1.0f, float term = 0.0f) {
        std::vector<float> sums = gpu.get<float>(y, rows * outputs);
        for (uint64_t row = 0; row < rows; row++) {
            for (uint64_t output = 0; output < outputs; output++)
                CHECK(sums[row * outputs + output] == factor * expected(row, output) + term);
        }
    }
};

TEST(a_linear_layer, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    CHECK(linear.chosen.workspaceSize > 0);
    LT_OK(linear.multiply());
    linear.check();
}

TEST(a_linear_layer_without_workspace, Passes) {
    Linear linear;
    linear.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(0));
    LT_OK(linear.choose());
    CHECK(linear.chosen.workspaceSize == 0);
    linear.workspace = 0;
    linear.workspace_bytes = 0;
    LT_OK(linear.multiply());
    linear.check();
}

TEST(a_product_with_a_bias_that_is_added_to_another, Passes) {
    Linear linear;
    std::vector<float> bias(linear.outputs, 3.0f);
    linear.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS));
    linear.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, linear.gpu.put(bias));
    linear.y = linear.gpu.put(std::vector<float>(linear.rows * linear.outputs, 2.0f));
    linear.alpha = 2.0f;
    linear.beta = 0.5f;
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    linear.check(2.0f, 4.0f);
}

TEST(a_narrow_result_within_a_wider_one, Passes) {
    Linear linear;
    uint64_t stride = linear.outputs + 6, first = 4;
    linear.lay(linear.y_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t(CUDA_R_16BF));
    linear.lay(linear.y_layout, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(stride));
    linear.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(8));
    linear.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(8));
    CUdeviceptr wide = linear.gpu.room(linear.rows * stride * 2);
    linear.y = wide + first * 2;
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    std::vector<uint16_t> results = linear.gpu.get<uint16_t>(wide, linear.rows * stride);
    for (uint64_t row = 0; row < linear.rows; row++) {
        for (uint64_t column = 0; column < stride; column++) {
            bool written = column >= first && column < first + linear.outputs;
            float right = written ? linear.expected(row, column - first) : 0.0f;
            CHECK(from_bf16(results[row * stride + column]) == from_bf16(bf16(right)));
        }
    }
}

// y as the transpose of itself, in a batch of two: all matrices are row-major, and x is the one to be transposed.
TEST(a_batch_of_row_major_matrices, Passes) {
    Linear linear;
    uint64_t w_elements = linear.outputs * linear.inputs, y_elements = linear.rows * linear.outputs;
    auto lay = [&](cublasLtMatrixLayout_t layout, uint64_t rows, uint64_t columns, int64_t distance) {
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, int32_t(CUBLASLT_ORDER_ROW));
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, rows);
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_COLS, columns);
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(columns));
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t(2));
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, distance);
    };
    lay(linear.w_layout, linear.outputs, linear.inputs, int64_t(w_elements));
    lay(linear.x_layout, linear.rows, linear.inputs, 0);
    lay(linear.y_layout, linear.outputs, linear.rows, int64_t(y_elements));
    linear.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_N));
    linear.set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t(CUBLAS_OP_T));
    linear.w = linear.gpu.put(bf16_numbers(2 * w_elements));
    linear.y = linear.gpu.room(2 * y_elements * 4);
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    std::vector<float> sums = linear.gpu.get<float>(linear.y, 2 * y_elements);
    for (uint64_t output = 0; output < 2 * linear.outputs; output++) {
        for (uint64_t row = 0; row < linear.rows; row++)
            CHECK(sums[output * linear.rows + row] == linear.expected(row, output));
    }
}

TEST(a_product_comes_late, Passes) {
    Linear linear;
    CUdeviceptr x = linear.gpu.put(std::vector<uint16_t>(linear.rows * linear.inputs, 0));
    LT_OK(linear.choose());
    OK(cuMemcpyDtoDAsync(linear.x, x, linear.rows * linear.inputs * 2, linear.gpu.stream));
    LT_OK(linear.multiply());
    // What describes it was read when it was called.
    LT_OK(cublasLtMatmulDescDestroy(linear.computation));
    LT_OK(cublasLtMatrixLayoutDestroy(linear.y_layout));
    for (float sum : linear.gpu.get<float>(linear.y, linear.rows * linear.outputs)) CHECK(sum == 0.0f);
}

TEST(products_in_a_graph, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    linear.gpu.synchronize();
    CUgraph graph;
    CUgraphExec executable;
    OK(cuStreamBeginCapture(linear.gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD32Async(linear.y, 0, linear.rows * linear.outputs, linear.gpu.stream));
    linear.beta = 1.0f;
    for (int at = 0; at < 2; at++) LT_OK(linear.multiply());
    linear.beta = 5.0f;
    OK(cuStreamEndCapture(linear.gpu.stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (int at = 0; at < 3; at++) OK(cuGraphLaunch(executable, linear.gpu.stream));
    linear.check(2.0f);
}

TEST(a_kernel_that_is_first_used_in_a_capture, Passes) {
    Linear linear;
    CUgraph graph;
    LT_OK(linear.choose());
    OK(cuStreamBeginCapture(linear.gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    LT_REFUSED(linear.multiply(), INTERNAL_ERROR);
    CHECK(cuStreamEndCapture(linear.gpu.stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

TEST(a_choice_in_a_capture, Passes) {
    Linear linear;
    CUgraph graph;
    OK(cuStreamBeginCapture(linear.gpu.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    LT_REFUSED(linear.choose(), INTERNAL_ERROR);
    CHECK(cuStreamEndCapture(linear.gpu.stream, &graph) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

TEST(leading_dimensions_that_are_too_small, Passes) {
    Linear linear;
    for (cublasLtMatrixLayout_t layout : {linear.w_layout, linear.x_layout, linear.y_layout}) {
        int64_t right = layout == linear.y_layout ? int64_t(linear.outputs) : int64_t(linear.inputs);
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_LD, right - 1);
        LT_REFUSED(linear.choose(), INVALID_VALUE);
        linear.lay(layout, CUBLASLT_MATRIX_LAYOUT_LD, right);
    }
    LT_OK(linear.choose());
}

TEST(leading_dimensions_that_leave_the_memory, Passes) {
    Linear linear;
    linear.lay(linear.x_layout, CUBLASLT_MATRIX_LAYOUT_LD, int64_t(linear.inputs + 8));
    LT_OK(linear.choose());
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
}

TEST(matrices_that_do_not_fit, Passes) {
    Linear linear;
    linear.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_N));
    LT_REFUSED(linear.choose(), INVALID_VALUE);
    linear.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_T));
    linear.lay(linear.x_layout, CUBLASLT_MATRIX_LAYOUT_COLS, linear.rows + 1);
    LT_REFUSED(linear.choose(), INVALID_VALUE);
    linear.lay(linear.x_layout, CUBLASLT_MATRIX_LAYOUT_COLS, uint64_t(0));
    LT_REFUSED(linear.choose(), INVALID_VALUE);
}

TEST(types_that_do_not_go_together, Passes) {
    Linear linear;
    linear.lay(linear.x_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t(CUDA_R_16F));
    LT_REFUSED(linear.choose(), NOT_SUPPORTED);
    linear.lay(linear.w_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t(CUDA_R_16F));
    LT_OK(linear.choose());
    linear.lay(linear.y_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t(CUDA_R_16BF));
    LT_REFUSED(linear.choose(), NOT_SUPPORTED);
}

TEST(a_bias_that_is_not_there, Passes) {
    Linear linear;
    linear.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS));
    LT_REFUSED(linear.choose(), INVALID_VALUE);
    linear.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, linear.gpu.room(linear.outputs * 4 - 4));
    LT_OK(linear.choose());
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
}

TEST(a_bias_of_another_type, Passes) {
    Linear linear;
    linear.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(CUBLASLT_EPILOGUE_BIAS));
    linear.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, linear.gpu.room(linear.outputs * 4));
    linear.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t(CUDA_R_32F));
    LT_OK(linear.choose());
    linear.lay(linear.y_layout, CUBLASLT_MATRIX_LAYOUT_TYPE, uint32_t(CUDA_R_16BF));
    LT_REFUSED(linear.choose(), NOT_SUPPORTED);
}

TEST(addresses_that_are_null_or_the_hosts, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    std::vector<float> host(linear.rows * linear.outputs);
    for (CUdeviceptr* at : {&linear.w, &linear.x, &linear.y}) {
        CUdeviceptr right = *at;
        *at = 0;
        LT_REFUSED(linear.multiply(), INVALID_VALUE);
        *at = reinterpret_cast<CUdeviceptr>(host.data()) / 256 * 256;
        LT_REFUSED(linear.multiply(), INVALID_VALUE);
        *at = right;
    }
    LT_REFUSED(cublasLtMatmul(linear.handle, linear.computation, nullptr, pointer(linear.w), linear.w_layout,
                              pointer(linear.x), linear.x_layout, &linear.beta, pointer(linear.y), linear.y_layout,
                              pointer(linear.y), linear.y_layout, &linear.chosen.algo, pointer(linear.workspace),
                              linear.workspace_bytes, linear.gpu.stream),
               INVALID_VALUE);
    LT_OK(linear.multiply());
    linear.check();
}

TEST(addresses_that_are_less_aligned_than_was_promised, Passes) {
    Linear linear;
    linear.y = linear.gpu.room(linear.rows * linear.outputs * 4 + 16) + 16;
    LT_OK(linear.choose());
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    linear.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, uint32_t(16));
    linear.prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, uint32_t(16));
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    linear.check();
}

TEST(a_workspace_that_is_too_small_or_not_there, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    linear.workspace_bytes = linear.chosen.workspaceSize - 1;
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    linear.workspace_bytes = WORKSPACE_BYTES + 1;
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    linear.workspace_bytes = WORKSPACE_BYTES - 16;
    linear.workspace += 16;
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    linear.workspace = 0;
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
}

TEST(a_result_over_its_own_operands, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    CUdeviceptr right = linear.y;
    linear.y = linear.gpu.room(WORKSPACE_BYTES);
    linear.workspace = linear.y;
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    linear.workspace = right;
    linear.workspace_bytes = linear.rows * linear.outputs * 4;
    LT_OK(linear.multiply());
    linear.y = linear.x = linear.gpu.room(WORKSPACE_BYTES);
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
}

TEST(an_algorithm_of_another_product, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    linear.lay(linear.x_layout, CUBLASLT_MATRIX_LAYOUT_COLS, linear.rows - 1);
    linear.lay(linear.y_layout, CUBLASLT_MATRIX_LAYOUT_COLS, linear.rows - 1);
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    LT_OK(linear.choose());
    LT_OK(linear.multiply());
    linear.chosen.algo = {};
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
}

TEST(attributes_of_other_sizes, Passes) {
    Linear linear;
    int64_t wide = CUBLAS_OP_T;
    LT_REFUSED(cublasLtMatmulDescSetAttribute(linear.computation, CUBLASLT_MATMUL_DESC_TRANSA, &wide, sizeof wide),
               INVALID_VALUE);
    LT_REFUSED(cublasLtMatmulDescSetAttribute(linear.computation, CUBLASLT_MATMUL_DESC_TRANSA, nullptr, 4),
               INVALID_VALUE);
    int32_t told = -1;
    size_t written = 0;
    auto transposed = CUBLASLT_MATMUL_DESC_TRANSA;
    LT_OK(cublasLtMatmulDescGetAttribute(linear.computation, transposed, &told, sizeof told, &written));
    CHECK(told == CUBLAS_OP_T && written == 4);
}

TEST(what_was_destroyed, Passes) {
    Linear linear;
    LT_OK(linear.choose());
    LT_OK(cublasLtMatrixLayoutDestroy(linear.x_layout));
    LT_REFUSED(linear.multiply(), INVALID_VALUE);
    LT_REFUSED(cublasLtMatrixLayoutDestroy(linear.x_layout), INVALID_VALUE);
    LT_OK(cublasLtMatmulPreferenceDestroy(linear.preference));
    LT_REFUSED(linear.choose(), INVALID_VALUE);
    LT_OK(cublasLtDestroy(linear.handle));
    LT_REFUSED(linear.multiply(), NOT_INITIALIZED);
    LT_REFUSED(cublasLtDestroy(linear.handle), NOT_INITIALIZED);
}

TEST(a_handle_without_a_gpu, Passes) {
    cublasLtHandle_t handle;
    LT_REFUSED(cublasLtCreate(&handle), NOT_INITIALIZED);
    Gpu gpu;
    LT_OK(cublasLtCreate(&handle));
}

TEST(a_library_that_knows_no_algorithm, Passes) {
    setenv("STAND_IN_CUBLASLT", "none", 1);
    Linear linear;
    LT_REFUSED(linear.choose(), NOT_SUPPORTED);
}

TEST(what_cublaslt_has_and_the_stand_in_has_not, Passes) {
    Linear linear;
    int ids[1], found;
    LT_REFUSED(cublasLtMatmulAlgoGetIds(linear.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F,
                                        CUDA_R_32F, CUDA_R_32F, 1, ids, &found),
               NOT_SUPPORTED);
}

TEST(operands_that_are_freed_too_early, Dies, "was freed before") {
    Linear linear;
    LT_OK(linear.choose());
    OK(cuMemFree(linear.x));
    linear.multiply();
}

}  // namespace

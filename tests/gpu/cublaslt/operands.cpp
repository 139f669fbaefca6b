#include "operands.hpp"

#include <utility>

#include "report.hpp"

namespace stand_in {

namespace {

constexpr size_t WORKSPACE_ALIGNMENT = 256;

bool is_aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
    auto a_at = reinterpret_cast<uintptr_t>(a), b_at = reinterpret_cast<uintptr_t>(b);
    return a_at < b_at + b_bytes && b_at < a_at + a_bytes;
}

}  // namespace

cublasStatus_t check_matrix(const Layout& layout, const void* at, uint32_t alignment, char name, const char* function) {
    if (!at) return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "%c is null", name);
    if (!stand_in_is_device_memory(at, extent(layout))) {
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "%c, %zu bytes, is not within memory of a device", name,
                      extent(layout));
    }
    if (is_aligned(at, alignment)) return CUBLAS_STATUS_SUCCESS;
    return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "%c is not aligned to the %u bytes that were promised", name,
                  alignment);
}

cublasStatus_t check_overlaps(const Product& product, size_t workspace_bytes, const char* function) {
    const auto& [a, b, c, d, workspace, alpha, beta, alpha_at, beta_at] = product.operands;
    const Problem& of = product.problem;
    if (overlap(d, extent(of.d), a, extent(of.a)) || overlap(d, extent(of.d), b, extent(of.b)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "D is written over A or B");
    bool same = c == d && of.c.stride == of.d.stride && of.c.order == of.d.order;
    if (!same && overlap(d, extent(of.d), c, extent(of.c)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "D is written over a part of C");
    for (auto [layout, at] : {std::pair{&of.a, a}, {&of.b, b}, {&of.c, c}, {&of.d, static_cast<const void*>(d)}}) {
        if (workspace && overlap(workspace, workspace_bytes, at, extent(*layout)))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the workspace is one of the matrices, too");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_workspace(const Algorithm& algorithm, const void* at, size_t bytes, const char* function) {
    if (bytes < algorithm.workspace_bytes) {
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the algorithm needs %zu bytes of workspace, and gets %zu",
                      size_t(algorithm.workspace_bytes), bytes);
    }
    if (!bytes) return CUBLAS_STATUS_SUCCESS;
    if (!is_aligned(at, WORKSPACE_ALIGNMENT))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the workspace is not aligned to 256 bytes");
    if (at && stand_in_is_device_memory(at, bytes)) return CUBLAS_STATUS_SUCCESS;
    return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the workspace, %zu bytes, is not within memory of a device",
                  bytes);
}

cublasStatus_t check_bias(const Problem& problem, const char* function) {
    if (!problem.has_bias()) return CUBLAS_STATUS_SUCCESS;
    const Computation& of = problem.computation;
    size_t element = bytes_of(problem.d.type);
    size_t bytes = (size_t(problem.batch() - 1) * size_t(of.bias_batch_stride) + problem.rows()) * element;
    if (!is_aligned(of.bias, element))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the bias is not aligned to its elements");
    if (stand_in_is_device_memory(of.bias, bytes)) return CUBLAS_STATUS_SUCCESS;
    return refuse(CUBLAS_STATUS_INVALID_VALUE, function, "the bias, %zu bytes, is not within a device's memory", bytes);
}

}  // namespace stand_in

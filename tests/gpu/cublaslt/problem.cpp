#include "problem.hpp"

#include <cstring>

namespace stand_in {

namespace {

constexpr uint64_t MARK = 0x7374616e64696e01;

#define WRONG(status, ...)                  \
    do {                                    \
        why = __VA_ARGS__;                  \
        return CUBLAS_STATUS_##status;      \
    } while (false)

std::string size_of(const Layout& layout) {
    return std::to_string(layout.rows) + " × " + std::to_string(layout.columns);
}

cublasStatus_t check_layout(const Layout& layout, const std::string& name, std::string& why) {
    if (!bytes_of(layout.type)) WRONG(NOT_SUPPORTED, "the type of " + name + " is not modelled");
    if (layout.order != CUBLASLT_ORDER_COL && layout.order != CUBLASLT_ORDER_ROW)
        WRONG(NOT_SUPPORTED, "the order of " + name + " is not modelled");
    if (!layout.rows || !layout.columns) WRONG(INVALID_VALUE, name + " is " + size_of(layout));
    uint64_t least = layout.order == CUBLASLT_ORDER_COL ? layout.rows : layout.columns;
    if (layout.stride < 0 || uint64_t(layout.stride) < least)
        WRONG(INVALID_VALUE, "the leading dimension of " + name + " is " + std::to_string(layout.stride) +
                                 ", and must be " + std::to_string(least) + " at least");
    if (layout.batch < 1) WRONG(INVALID_VALUE, "the batch of " + name + " is empty");
    if (layout.batch > 1 && layout.batch_stride < 0) WRONG(INVALID_VALUE, "the batch of " + name + " goes backwards");
    return CUBLAS_STATUS_SUCCESS;
}

bool is_transposed(int32_t operation) { return operation != CUBLAS_OP_N; }

// The sums and scales are f32; inputs are of one type; a result is of theirs or f32.
bool are_types_modelled(const Problem& of) {
    const Computation& computation = of.computation;
    return computation.compute_type == CUBLAS_COMPUTE_32F && computation.scale_type == CUDA_R_32F &&
           of.a.type == of.b.type && of.c.type == of.d.type && (of.d.type == of.a.type || of.d.type == CUDA_R_32F);
}

}  // namespace

size_t bytes_of(uint32_t type) {
    switch (type) {
        case CUDA_R_32F: return 4;
        case CUDA_R_16F:
        case CUDA_R_16BF: return 2;
        default: return 0;
    }
}

size_t extent(const Layout& layout) {
    bool by_columns = layout.order == CUBLASLT_ORDER_COL;
    uint64_t runs = by_columns ? layout.columns : layout.rows, run = by_columns ? layout.rows : layout.columns;
    uint64_t one = (runs - 1) * uint64_t(layout.stride) + run;
    return size_t((uint64_t(layout.batch - 1) * uint64_t(layout.batch_stride) + one) * bytes_of(layout.type));
}

cublasStatus_t Problem::check(std::string& why) const {
    const std::pair<const Layout*, const char*> all[] = {{&a, "A"}, {&b, "B"}, {&c, "C"}, {&d, "D"}};
    for (auto [layout, name] : all) {
        if (cublasStatus_t wrong = check_layout(*layout, name, why)) return wrong;
        if (layout->batch != d.batch) WRONG(INVALID_VALUE, std::string(name) + " and D have batches of two sizes");
    }
    for (int32_t operation : {computation.transpose_a, computation.transpose_b, computation.transpose_c}) {
        if (operation != CUBLAS_OP_N && operation != CUBLAS_OP_T)
            WRONG(NOT_SUPPORTED, "this operation on a matrix is not modelled");
    }
    if (computation.transpose_c != CUBLAS_OP_N) WRONG(NOT_SUPPORTED, "C can't be transposed");
    if (!are_types_modelled(*this)) WRONG(NOT_SUPPORTED, "this combination of types is not modelled");
    if (c.rows != d.rows || c.columns != d.columns)
        WRONG(INVALID_VALUE, "C is " + size_of(c) + ", and D " + size_of(d));
    uint64_t inner_of_b = is_transposed(computation.transpose_b) ? b.columns : b.rows;
    uint64_t rows_of_a = is_transposed(computation.transpose_a) ? a.columns : a.rows;
    uint64_t columns_of_b = is_transposed(computation.transpose_b) ? b.rows : b.columns;
    if (inner() != inner_of_b || rows_of_a != d.rows || columns_of_b != d.columns)
        WRONG(INVALID_VALUE, "A (" + size_of(a) + "), B (" + size_of(b) + ") and D (" + size_of(d) + ") don't fit");
    if (computation.pointer_mode != CUBLASLT_POINTER_MODE_HOST &&
        computation.pointer_mode != CUBLASLT_POINTER_MODE_DEVICE)
        WRONG(NOT_SUPPORTED, "this pointer mode is not modelled");
    if (computation.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_SUCCESS;
    if (!has_bias()) WRONG(NOT_SUPPORTED, "this epilogue is not modelled");
    if (!computation.bias) WRONG(INVALID_VALUE, "the epilogue wants a bias, and no pointer was set");
    if (computation.bias_type != -1 && uint32_t(computation.bias_type) != d.type)
        WRONG(NOT_SUPPORTED, "a bias is of the type of D");
    if (d.order != CUBLASLT_ORDER_COL) WRONG(NOT_SUPPORTED, "a bias with a row-major D is not modelled");
    if (d.batch > 1 && computation.bias_batch_stride < 0) WRONG(INVALID_VALUE, "the biases go backwards");
    return CUBLAS_STATUS_SUCCESS;
}

uint64_t Problem::fingerprint() const {
    uint64_t sum = 14695981039346656037u;
    auto add = [&](uint64_t value) { sum = (sum ^ value) * 1099511628211u; };
    for (const Layout* of : {&a, &b, &c, &d}) {
        for (uint64_t value : {uint64_t(of->type), uint64_t(of->order), of->rows, of->columns, uint64_t(of->stride),
                               uint64_t(of->batch), uint64_t(of->batch_stride)})
            add(value);
    }
    add(uint64_t(computation.pointer_mode));
    add(uint64_t(computation.transpose_a));
    add(uint64_t(computation.transpose_b));
    add(computation.epilogue);
    return sum;
}

Algorithm Algorithm::of(Kind kind, const Problem& problem, const Preference& preference) {
    Algorithm made{MARK, kind, problem.fingerprint(), 0, {}};
    if (kind == Split) made.workspace_bytes = problem.rows() * problem.columns() * sizeof(float);
    memcpy(made.alignment, preference.alignment, sizeof made.alignment);
    return made;
}

bool Algorithm::from(const cublasLtMatmulAlgo_t& stored, Algorithm& algorithm) {
    static_assert(sizeof algorithm <= sizeof stored);
    memcpy(&algorithm, &stored, sizeof algorithm);
    return algorithm.mark == MARK;
}

cublasLtMatmulAlgo_t Algorithm::stored() const {
    cublasLtMatmulAlgo_t room{};
    memcpy(&room, this, sizeof *this);
    return room;
}

}  // namespace stand_in

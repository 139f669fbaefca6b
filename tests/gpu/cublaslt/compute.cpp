// A product's arithmetic: sums in f32, rounded once.
#include <vector>

#include "../simt/narrow.hpp"
#include "problem.hpp"

namespace stand_in {

namespace {

size_t index(const Layout& of, uint64_t row, uint64_t column, int32_t batch) {
    uint64_t within = of.order == CUBLASLT_ORDER_COL ? column * uint64_t(of.stride) + row
                                                     : row * uint64_t(of.stride) + column;
    return size_t(uint64_t(batch) * uint64_t(of.batch_stride) + within);
}

float read(const void* from, uint32_t type, size_t at) {
    switch (type) {
        case CUDA_R_16F: return static_cast<const F16*>(from)[at];
        case CUDA_R_16BF: return static_cast<const Bf16*>(from)[at];
        default: return static_cast<const float*>(from)[at];
    }
}

void write(void* to, uint32_t type, size_t at, float value) {
    switch (type) {
        case CUDA_R_16F: static_cast<F16*>(to)[at] = F16::of(value); break;
        case CUDA_R_16BF: static_cast<Bf16*>(to)[at] = Bf16::of(value); break;
        default: static_cast<float*>(to)[at] = value;
    }
}

// `inner` numbers for each of `outer`: op(A)'s rows, or op(B)'s columns.
std::vector<float> gathered(const void* from, const Layout& of, int32_t batch, uint64_t outer, uint64_t inner,
                            bool outer_is_row) {
    std::vector<float> numbers(outer * inner);
    for (uint64_t at = 0; at < outer; at++) {
        for (uint64_t step = 0; step < inner; step++) {
            size_t place = outer_is_row ? index(of, at, step, batch) : index(of, step, at, batch);
            numbers[at * inner + step] = read(from, of.type, place);
        }
    }
    return numbers;
}

float dot(const float* a, const float* b, uint64_t count) {
    constexpr uint64_t LANES = 8;
    float sums[LANES] = {};
    uint64_t at = 0;
    for (; at + LANES <= count; at += LANES) {
        for (uint64_t lane = 0; lane < LANES; lane++) sums[lane] += a[at + lane] * b[at + lane];
    }
    for (; at < count; at++) sums[0] += a[at] * b[at];
    float sum = 0.0f;
    for (float one : sums) sum += one;
    return sum;
}

}  // namespace

void Product::compute() const {
    const auto& [computation, a, b, c, d] = problem;
    uint64_t rows = problem.rows(), columns = problem.columns(), inner = problem.inner();
    uint64_t first_half = kind == Algorithm::Split ? inner / 2 : 0;
    auto* halves = static_cast<float*>(operands.workspace);
    float alpha = operands.alpha_on_device ? *operands.alpha_on_device : operands.alpha;
    float beta = operands.beta_on_device ? *operands.beta_on_device : operands.beta;
    for (int32_t batch = 0; batch < problem.batch(); batch++) {
        bool a_by_rows = computation.transpose_a == CUBLAS_OP_N, b_by_rows = computation.transpose_b != CUBLAS_OP_N;
        std::vector<float> lines_a = gathered(operands.a, a, batch, rows, inner, a_by_rows);
        std::vector<float> lines_b = gathered(operands.b, b, batch, columns, inner, b_by_rows);
        auto part = [&](uint64_t row, uint64_t column, uint64_t from, uint64_t to) {
            return dot(&lines_a[row * inner + from], &lines_b[column * inner + from], to - from);
        };
        if (kind == Algorithm::Split) {
            for (uint64_t column = 0; column < columns; column++) {
                for (uint64_t row = 0; row < rows; row++)
                    halves[column * rows + row] = part(row, column, 0, first_half);
            }
        }
        for (uint64_t column = 0; column < columns; column++) {
            for (uint64_t row = 0; row < rows; row++) {
                float sum = part(row, column, first_half, inner);
                if (kind == Algorithm::Split) sum += halves[column * rows + row];
                sum *= alpha;
                // What C has is not looked at where it counts for nothing.
                if (beta != 0.0f) sum += beta * read(operands.c, c.type, index(c, row, column, batch));
                if (problem.has_bias()) {
                    size_t at = size_t(uint64_t(batch) * uint64_t(computation.bias_batch_stride) + row);
                    sum += read(computation.bias, d.type, at);
                }
                write(operands.d, d.type, index(d, row, column, batch), sum);
            }
        }
    }
}

}  // namespace stand_in

#include "attributes.hpp"

namespace stand_in {

namespace {

template <class T>
Place in(T& field) {
    return {&field, sizeof field};
}

}  // namespace

Place place_of(Layout& layout, cublasLtMatrixLayoutAttribute_t attribute) {
    switch (attribute) {
        case CUBLASLT_MATRIX_LAYOUT_TYPE: return in(layout.type);
        case CUBLASLT_MATRIX_LAYOUT_ORDER: return in(layout.order);
        case CUBLASLT_MATRIX_LAYOUT_ROWS: return in(layout.rows);
        case CUBLASLT_MATRIX_LAYOUT_COLS: return in(layout.columns);
        case CUBLASLT_MATRIX_LAYOUT_LD: return in(layout.stride);
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return in(layout.batch);
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return in(layout.batch_stride);
        default: return {};
    }
}

Place place_of(Computation& computation, cublasLtMatmulDescAttributes_t attribute) {
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return in(computation.compute_type);
        case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return in(computation.scale_type);
        case CUBLASLT_MATMUL_DESC_POINTER_MODE: return in(computation.pointer_mode);
        case CUBLASLT_MATMUL_DESC_TRANSA: return in(computation.transpose_a);
        case CUBLASLT_MATMUL_DESC_TRANSB: return in(computation.transpose_b);
        case CUBLASLT_MATMUL_DESC_TRANSC: return in(computation.transpose_c);
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return in(computation.epilogue);
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return in(computation.bias);
        case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return in(computation.bias_batch_stride);
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return in(computation.bias_type);
        default: return {};
    }
}

Place place_of(Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute) {
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return in(preference.workspace_bytes_max);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return in(preference.alignment[0]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return in(preference.alignment[1]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return in(preference.alignment[2]);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return in(preference.alignment[3]);
        default: return {};
    }
}

}  // namespace stand_in

// Tensor cores' fragments: one product of each kind, from and to plain matrices.

#include "device.cuh"

// c [16, 8] = a [16, 16] · b [8, 16]ᵀ of 16-bit numbers; by ldmatrix, b transposed on the way if `TRANSPOSED` (it is
// [16, 8] then).
template <bool IS_BF16, bool TRANSPOSED>
__device__ void product(float* c, const uint16_t* a, const uint16_t* b) {
    __shared__ __align__(16) uint16_t rows[16][24], columns[16][24];
    int lane = int(threadIdx.x);
    for (int i = lane; i < 256; i += 32) rows[i / 16][i % 16] = a[i];
    int width = TRANSPOSED ? 8 : 16;
    for (int i = lane; i < 128; i += 32) columns[i / width][i % width] = b[i];
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[2];
    ldmatrix_x4(fragment_a, &rows[lane % 16][lane / 16 * 8]);
    if (TRANSPOSED) {
        ldmatrix_x2_trans(fragment_b, &columns[lane % 16][0]);
    } else {
        ldmatrix_x2(fragment_b, &columns[lane % 8][lane / 8 % 2 * 8]);
    }
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (IS_BF16) {
        mma_m16n8k16_bf16(sums, fragment_a, fragment_b);
    } else {
        mma_m16n8k16_f16(sums, fragment_a, fragment_b);
    }
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

KERNEL(product_bf16, 32)(float* c, const uint16_t* a, const uint16_t* b) { product<true, false>(c, a, b); }

KERNEL(product_bf16_transposed, 32)(float* c, const uint16_t* a, const uint16_t* b) { product<true, true>(c, a, b); }

KERNEL(product_f16, 32)(float* c, const uint16_t* a, const uint16_t* b) { product<false, false>(c, a, b); }

KERNEL(misaligned_rows_wrong, 32)(float* c, const uint16_t* a, const uint16_t*) {
    DYNAMIC_SHARED(uint16_t, rows);
    for (int i = int(threadIdx.x); i < 256; i += 32) rows[i] = a[i];
    __syncwarp();
    uint32_t fragment[4];
    ldmatrix_x4(fragment, rows + threadIdx.x * 4);
    c[threadIdx.x] = float(fragment[0]);
}

// c [16, 8] = a [16, 8] · b [8, 8]ᵀ of f32 cut to tf32.
KERNEL(product_tf32, 32)(float* c, const uint32_t* a, const uint32_t* b) {
    int lane = int(threadIdx.x), group = lane / 4, k = lane % 4;
    uint32_t fragment_a[4] = {a[group * 8 + k], a[(group + 8) * 8 + k], a[group * 8 + k + 4],
                              a[(group + 8) * 8 + k + 4]};
    uint32_t fragment_b[2] = {b[group * 8 + k], b[group * 8 + k + 4]};
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k8_tf32(sums, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) c[(group + i / 2 * 8) * 8 + k * 2 + i % 2] = sums[i];
}

// c [16, 8] = a [16, 32] · b [8, 32]ᵀ of int8.
KERNEL(product_int8, 32)(int* c, const uint32_t* a, const uint32_t* b) {
    int lane = int(threadIdx.x), group = lane / 4, k = lane % 4;
    uint32_t fragment_a[4] = {a[group * 8 + k], a[(group + 8) * 8 + k], a[group * 8 + k + 4],
                              a[(group + 8) * 8 + k + 4]};
    uint32_t fragment_b[2] = {b[group * 8 + k], b[group * 8 + k + 4]};
    int sums[4] = {0, 0, 0, 0};
    mma_m16n8k32_s8(sums, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) c[(group + i / 2 * 8) * 8 + k * 2 + i % 2] = sums[i];
}

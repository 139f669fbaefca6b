//! How numbers are stored. Geometry only; the arithmetic of each format is in `matmul`.

use serde::{Deserialize, Serialize};

/// Storage format of a weight matrix. The quantized ones are ggml's block formats: a row is a run of blocks,
/// each `block_elements` weights in `block_bytes` bytes (layouts: ggml's `ggml-common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "the field's own names")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 32 × i8, one f16 scale.
    Q8_0,
    /// 32 × u4 − 8, one f16 scale.
    Q4_0,
    /// 32 × u4, f16 scale and f16 minimum.
    Q4_1,
    /// 32 × u5 − 16, one f16 scale.
    Q5_0,
    /// 32 × u5, f16 scale and f16 minimum.
    Q5_1,
    /// 256 × u4 in 8 groups with 6-bit scales and minima.
    Q4_K,
    /// 256 × u5 in 8 groups with 6-bit scales and minima.
    Q5_K,
    /// 256 × i6 in 16 groups with 8-bit scales.
    Q6_K,
}

impl DType {
    /// Every format, for tests and tables.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// Weights in one block (1 for the plain formats).
    pub const fn block_elements(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => 32,
            DType::Q4_K | DType::Q5_K | DType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 34,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
        }
    }

    /// Bytes of `elements` weights; `elements` is a multiple of [`Self::block_elements`].
    pub const fn bytes_of(self, elements: usize) -> usize {
        elements / self.block_elements() * self.block_bytes()
    }
}

/// Storage format of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 8-bit integers, with one f32 scale for each token's key and each token's value of a head.
    Int8,
}

impl KvDType {
    /// Bytes of one head's key, or value, of one token.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            KvDType::F32 => 4 * head_dim,
            KvDType::F16 | KvDType::BF16 => 2 * head_dim,
            KvDType::Int8 => head_dim + size_of::<f32>(),
        }
    }
}

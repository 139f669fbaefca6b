//! How numbers are stored. Geometry only; the arithmetic of each format is in `matmul`.

use serde::{Deserialize, Serialize};

/// Storage format of a weight matrix. In the quantized ones a row is a run of blocks, each `block_elements` weights in
/// `block_bytes` bytes, little-endian. Those named as in ggml are ggml's (layouts: its `ggml-common.h`); the last four
/// are our own, for weights that are quantized here or that other tools quantized.
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
    /// 256 × u2 in 16 groups with 4-bit scales and minima.
    Q2_K,
    /// 256 × i3 in 16 groups with 6-bit scales.
    Q3_K,
    /// 256 × u4 in 8 groups with 6-bit scales and minima.
    Q4_K,
    /// 256 × u5 in 8 groups with 6-bit scales and minima.
    Q5_K,
    /// 256 × i6 in 16 groups with 8-bit scales.
    Q6_K,
    /// 32 × one of sixteen values that lie closer near zero, one f16 scale.
    IQ4_NL,
    /// 256 of the same in 8 groups with 6-bit scales.
    IQ4_XS,
    /// 32 × FP4 (e2m1), the scale a power of two (e8m0): OCP's microscaling format.
    MXFP4,
    /// 256 × −1, 0 or 1, five to a byte, one f16 scale.
    TQ1_0,
    /// 256 × −1, 0 or 1, four to a byte, one f16 scale.
    TQ2_0,
    /// 128 × i8. A block is an f32 scale, then the weights' bytes; a weight is scale × its byte.
    WInt8,
    /// 128 × u4 − zero point. A block is an f16 scale, a u8 zero point (0 to 16), a byte 0, then for each 32 weights
    /// 16 bytes, whose low halves are the first 16 of them; a weight is scale × (its nibble − zero point).
    WInt4,
    /// 32 of the same in a block without the byte 0, for rows or shards that are not whole groups of 128.
    WInt4G32,
    /// 128 × FP8 (e4m3fn). A block is an f32 scale, then the weights' bytes; a weight is scale × its byte's value. The
    /// two codes for not-a-number never occur: who makes such blocks refuses them.
    F8_E4M3,
}

impl DType {
    /// Every format, for tests and tables.
    pub const ALL: [DType; 22] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::MXFP4,
        DType::TQ1_0,
        DType::TQ2_0,
        DType::WInt8,
        DType::WInt4,
        DType::WInt4G32,
        DType::F8_E4M3,
    ];

    /// Its name for people: `bf16`, `q4_k`, `wint4`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::Q8_0 => "q8_0",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q2_K => "q2_k",
            DType::Q3_K => "q3_k",
            DType::Q4_K => "q4_k",
            DType::Q5_K => "q5_k",
            DType::Q6_K => "q6_k",
            DType::IQ4_NL => "iq4_nl",
            DType::IQ4_XS => "iq4_xs",
            DType::MXFP4 => "mxfp4",
            DType::TQ1_0 => "tq1_0",
            DType::TQ2_0 => "tq2_0",
            DType::WInt8 => "wint8",
            DType::WInt4 => "wint4",
            DType::WInt4G32 => "wint4g32",
            DType::F8_E4M3 => "f8_e4m3",
        }
    }

    /// Whether weights come in blocks that share a scale.
    pub const fn is_quantized(self) -> bool {
        self.block_elements() > 1
    }

    /// Weights in one block (1 for the plain formats).
    pub const fn block_elements(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 => 32,
            DType::IQ4_NL | DType::MXFP4 | DType::WInt4G32 => 32,
            DType::WInt8 | DType::WInt4 | DType::F8_E4M3 => 128,
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K => 256,
            DType::IQ4_XS | DType::TQ1_0 | DType::TQ2_0 => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 34,
            DType::Q4_0 | DType::IQ4_NL => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q2_K => 84,
            DType::Q3_K => 110,
            DType::Q4_K => 144,
            DType::Q5_K => 176,
            DType::Q6_K => 210,
            DType::IQ4_XS => 136,
            DType::MXFP4 => 17,
            DType::TQ1_0 => 54,
            DType::TQ2_0 => 66,
            DType::WInt8 | DType::F8_E4M3 => 132,
            DType::WInt4 => 68,
            DType::WInt4G32 => 19,
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
    /// 16-bit integers, with one f32 scale for each token's key and each token's value of a head: on the CPU, where all
    /// products with them are of integers as well.
    Int16,
    /// 8-bit integers, with one f32 scale for each token's key and each token's value of a head.
    Int8,
    /// FP8 (e4m3fn), a byte for each element and no scale: numbers keep 4 bits of precision from 2⁻⁶ to 448, are rounded
    /// to multiples of 2⁻⁹ below and to ±448 beyond, which keys and values of trained models rarely reach. So vLLM stores
    /// them too, unless a model's file says otherwise. With a scale per row it would be as large as [`Self::Int8`], and
    /// less exact.
    #[serde(rename = "fp8")]
    F8E4M3,
}

impl KvDType {
    /// Bytes of one head's key, or value, of one token.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            KvDType::F32 => 4 * head_dim,
            KvDType::F16 | KvDType::BF16 => 2 * head_dim,
            KvDType::Int16 => 2 * head_dim.next_multiple_of(32) + size_of::<f32>(),
            KvDType::Int8 => head_dim + size_of::<f32>(),
            KvDType::F8E4M3 => head_dim,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_are_listed_once_by_their_names() {
        for (index, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(dtype as usize, index, "{dtype:?}");
            assert_eq!(dtype.name(), format!("{dtype:?}").to_lowercase());
            assert_eq!(dtype.is_quantized(), !dtype.name().ends_with("f32") && !dtype.name().ends_with("f16"));
        }
    }
}

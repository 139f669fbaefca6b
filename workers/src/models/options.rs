//! How a model is loaded, beside what its files say.

use kernels::DType;
use serde::{Deserialize, Serialize};

/// What a rank decides beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Longest sequence, tokens: positions that heads are turned by.
    pub max_model_len: usize,
    /// Threads that quantize.
    pub threads: usize,
    /// How weights are taken.
    pub weights: WeightOptions,
}

/// How weights are taken, the same on all ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightOptions {
    /// Whether they are random: files need not be there.
    pub random: bool,
    /// Whether experts are handed out whole; else every rank has a part of each one's width.
    pub whole_experts: bool,
    /// What becomes of matrices that aren't quantized in the file.
    pub quantization: Option<Quantization>,
    /// What those that stay unquantized are kept as.
    pub plain: Option<PlainType>,
}

/// A way to quantize at load, by FastDeploy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantization {
    /// 8-bit integers with a scale per 128 inputs.
    WInt8,
    /// 4-bit integers with a scale and a zero point per 128 inputs; of models with experts only these, the rest as
    /// [`Quantization::WInt8`].
    WInt4,
    /// 8-bit floats with a scale per 128 × 128 weights.
    BlockWiseFp8,
}

/// A format without blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlainType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
}

/// What a matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A linear layer of attention, or an MLP.
    Linear,
    /// An expert of many.
    Expert,
    /// The embedding, or the head.
    Vocabulary,
    /// It chooses experts: a small error could choose others.
    Router,
}

impl WeightOptions {
    /// The formats that a matrix of this role should have, best first; the first that its columns allow is taken. None
    /// of them: it stays as it is.
    pub(crate) fn formats(&self, role: Role, has_experts: bool) -> Vec<DType> {
        use Quantization::{BlockWiseFp8, WInt4, WInt8};
        let eight = [DType::WInt8, DType::Q8_0];
        let four = [DType::WInt4, DType::WInt4G32];
        let quantized: &[DType] = match (self.quantization, role) {
            (None, _) | (_, Role::Router) | (Some(BlockWiseFp8), Role::Vocabulary) => &[],
            (Some(BlockWiseFp8), _) => &[DType::F8_E4M3],
            (Some(WInt4), Role::Expert) => &four,
            (Some(WInt4), Role::Linear) if !has_experts => &four,
            // The head weighs on every token's choice, and is read once per token: 8 bits for it in any case.
            (Some(WInt8 | WInt4), _) => &eight,
        };
        let plain = self.plain.filter(|_| role != Role::Router).map(PlainType::dtype);
        quantized.iter().copied().chain(plain).collect()
    }
}

impl PlainType {
    fn dtype(self) -> DType {
        match self {
            PlainType::F32 => DType::F32,
            PlainType::F16 => DType::F16,
            PlainType::BF16 => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_quantizes_as_documented() {
        let check = |quantization, role, has_experts, expected: &[DType]| {
            let options = WeightOptions { quantization, plain: Some(PlainType::BF16), ..WeightOptions::default() };
            assert_eq!(options.formats(role, has_experts), expected, "{quantization:?} {role:?} {has_experts}");
        };
        let [eight, four] = [[DType::WInt8, DType::Q8_0, DType::BF16], [DType::WInt4, DType::WInt4G32, DType::BF16]];
        check(None, Role::Linear, false, &[DType::BF16]);
        check(Some(Quantization::WInt4), Role::Router, true, &[]);
        check(Some(Quantization::WInt8), Role::Expert, true, &eight);
        check(Some(Quantization::WInt4), Role::Expert, true, &four);
        check(Some(Quantization::WInt4), Role::Linear, true, &eight);
        check(Some(Quantization::WInt4), Role::Linear, false, &four);
        check(Some(Quantization::WInt4), Role::Vocabulary, false, &eight);
        check(Some(Quantization::BlockWiseFp8), Role::Linear, false, &[DType::F8_E4M3, DType::BF16]);
        check(Some(Quantization::BlockWiseFp8), Role::Vocabulary, false, &[DType::BF16]);
    }
}

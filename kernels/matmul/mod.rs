//! `x · Wᵀ + bias`: the linear layer, for every storage format of a weight.
//!
//! On the CPU the arithmetic is f32: a quantized weight stands for its dequantized value. Every output is reduced over
//! its inputs in one fixed order that depends on nothing else in the batch, so a row's result has the same bits
//! alone, in a batch or in a chunk.

mod cpu;
mod dequantize;

pub use dequantize::dequantize;

use crate::{Result, memory::Memory};

/// See the module.
pub trait MatMul: Memory {
    /// `[rows, outputs]` from `x [rows, inputs]`, `weight [outputs, inputs]` and `bias [1, outputs]`.
    fn matmul(&self, x: &Self::Tensor, weight: &Self::Weight, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
}

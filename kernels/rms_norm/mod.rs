//! Root-mean-square normalisation, alone and fused with the residual addition before it.
//! `y = w · x / sqrt(mean(x²) + eps)` over a row, in f32 (Zhang & Sennrich 2019).

mod cpu;

use crate::{Heads, Result, memory::Memory};

/// See the module.
pub trait RmsNorm: Memory {
    /// Each row of `x [rows, n]` normalised and scaled by `weight [1, n]`.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32) -> Result<Self::Tensor>;

    /// `residual += x`, then the norm of the sum.
    fn add_rms_norm(
        &self,
        residual: &mut Self::Tensor,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor>;

    /// Normalises each query head and each key head of fused rows `qkv [rows, heads.qkv_columns()]` in place, over the
    /// head's own elements, with `query_weight` and `key_weight` `[1, head_dim]` (Qwen3).
    fn rms_norm_heads(
        &self,
        qkv: &mut Self::Tensor,
        heads: &Heads,
        query_weight: &Self::Tensor,
        key_weight: &Self::Tensor,
        eps: f32,
    ) -> Result<()>;
}

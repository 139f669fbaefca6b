//! Rotary position embedding (Su et al. 2021) on the query and key heads of fused rows.

mod cpu;

use crate::{Heads, Result, memory::Memory};

/// Which two elements of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `(i, i + d/2)`: Llama, Qwen ("neox", "rotate half").
    Half,
    /// `(2i, 2i + 1)`: ERNIE-4.5, and Llama as GGUF files store it.
    Interleaved,
}

/// See the module.
pub trait Rotary: Memory {
    /// Turns the query and key heads of `qkv [tokens, heads.qkv_columns()]` in place by their tokens' positions.
    /// `table [positions, 2 × d/2]` holds per position the cosines, then the sines, of a head's `d/2` angles, where
    /// `d ≤ head_dim` is the rotary dimension; elements from `d` on pass unchanged.
    fn rotary(
        &self,
        qkv: &mut Self::Tensor,
        heads: &Heads,
        table: &Self::Tensor,
        pairing: Pairing,
        batch: &Self::Batch,
    ) -> Result<()>;
}

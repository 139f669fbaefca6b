//! Causal attention of the step's queries over the paged KV cache, softmax in f32.
//!
//! The keys of a query are visited in one fixed order (its blocks, from the first), so the result has the same bits
//! whether the query came alone, in a chunk, or after a cached prefix.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;

use crate::{Heads, Result, memory::Memory};

/// See the module.
pub trait Attention: Memory {
    /// `[tokens, heads.query × head_dim]`: for each token of the batch the attention of its query heads (the first
    /// columns of `qkv`) over positions `0 ..= its own` of its sequence, whose keys and values layer `layer` of the cache
    /// holds already (this step's included). Scores are scaled by `scale`.
    fn attention(
        &self,
        qkv: &Self::Tensor,
        cache: &Self::KvCache,
        layer: usize,
        heads: &Heads,
        scale: f32,
        batch: &Self::Batch,
    ) -> Result<Self::Tensor>;
}

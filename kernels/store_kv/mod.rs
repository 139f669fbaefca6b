//! Writes the step's keys and values into their slots of the KV cache.

#[allow(unsafe_code, reason = "threads write disjoint tiles")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{Heads, Result, memory::Memory};

/// See the module.
pub trait StoreKv: Memory {
    /// Stores the key and value heads of `qkv [tokens, heads.qkv_columns()]` in layer `layer` at the batch's slot mapping.
    fn store_kv(
        &self,
        cache: &mut Self::KvCache,
        layer: usize,
        qkv: &Self::Tensor,
        heads: &Heads,
        batch: &Self::Batch,
    ) -> Result<()>;
}

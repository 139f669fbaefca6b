//! Keeps the rows whose logits are wanted.

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait SelectRows: Memory {
    /// `[sampled rows, columns]` of `x [tokens, columns]`, as the batch's `sampled_rows` say.
    fn select_rows(&self, x: &Self::Tensor, batch: &Self::Batch) -> Result<Self::Tensor>;
}

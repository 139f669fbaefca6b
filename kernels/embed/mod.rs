//! Token ids to hidden states: rows of the embedding table, split over ranks by vocabulary.

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait Embed: Memory {
    /// `[tokens, columns]`: row `tokens[i] - first_token` of `table`, or zeros where this rank's shard of the
    /// vocabulary (`first_token .. first_token + table rows`) has no such token; an all-reduce makes it whole.
    fn embed(&self, table: &Self::Weight, first_token: u32, batch: &Self::Batch) -> Result<Self::Tensor>;
}

//! The sum of every rank's tensor, on every rank.

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait AllReduce: Memory {
    /// `x` becomes the sum over ranks of their `x` (same shape on all), added in the order of the ranks, so that every
    /// rank ends with the same bits. One rank alone: nothing happens.
    fn all_reduce(&self, x: &mut Self::Tensor) -> Result<()>;
}

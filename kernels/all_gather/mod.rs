//! Every rank's columns side by side, on every rank.

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait AllGather: Memory {
    /// `[rows, ranks × columns]` from each rank's `x [rows, columns]`, rank 0's columns first.
    fn all_gather(&self, x: Self::Tensor) -> Result<Self::Tensor>;
}

//! One rank's small integers, on every rank: the tokens that rank 0 sampled.

mod cpu;
mod cuda;

pub(crate) use cpu::broadcast as among;

use crate::{Result, memory::Memory};

/// See the module.
pub trait Broadcast: Memory {
    /// `values` become rank 0's; the length is the same on all ranks.
    fn broadcast(&self, values: &mut [u32]) -> Result<()>;
}

//! The sum of every rank's tensor, on every rank.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{Result, memory::Memory};

/// See the module.
pub trait AllReduce: Memory {
    /// `x` becomes the sum over ranks of their `x` (same shape on all), added in the order of the ranks, so that every
    /// rank ends with the same bits. One rank alone: nothing happens.
    fn all_reduce(&self, x: &mut Self::Tensor) -> Result<()>;
}

/// What [`AllReduce::all_reduce`] means: the sum of `parts`, one per rank, in their order.
#[cfg(test)]
pub(crate) fn reference(parts: &[Vec<f32>]) -> Vec<f32> {
    let add = |sum: Vec<f32>, part: &Vec<f32>| sum.iter().zip(part).map(|(a, b)| a + b).collect();
    parts[1..].iter().fold(parts[0].clone(), add)
}

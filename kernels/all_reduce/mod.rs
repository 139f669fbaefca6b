//! The sum of every rank's tensor, on every rank.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

#[cfg(doc)]
use crate::rms_norm::RmsNorm;
use crate::{Result, memory::Memory};

/// See the module.
pub trait AllReduce: Memory {
    /// `x` becomes the sum over ranks of their `x` (same shape on all), so that every rank ends with the same bits; on the CPU
    /// they are added in the order of the ranks. One rank alone: nothing happens.
    fn all_reduce(&self, x: &mut Self::Tensor) -> Result<()>;

    /// The same of `x`, the ranks' parts of a branch's output, and at once what nearly always follows:
    /// [`RmsNorm::add_rms_norm`] with the sum.
    fn all_reduce_add_rms_norm(
        &self,
        residual: &mut Self::Tensor,
        x: Self::Tensor,
        norm: NormAfter<Self::Tensor>,
    ) -> Result<Self::Tensor>;
}

/// The norm that follows an all-reduce; as the arguments of [`RmsNorm::add_rms_norm`].
pub struct NormAfter<'a, T> {
    /// What the sum is multiplied by before it joins the residual stream.
    pub scale: f32,
    /// `[1, n]`
    pub weight: &'a T,
    /// What is added to the mean square.
    pub eps: f32,
}

/// What [`AllReduce::all_reduce`] means: the sum of `parts`, one per rank, in their order.
#[cfg(test)]
pub(crate) fn reference(parts: &[Vec<f32>]) -> Vec<f32> {
    let add = |sum: Vec<f32>, part: &Vec<f32>| sum.iter().zip(part).map(|(a, b)| a + b).collect();
    parts[1..].iter().fold(parts[0].clone(), add)
}

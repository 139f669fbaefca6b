//! Root-mean-square norms, replicated on every rank.

use kernels::{Backend, Result, memory::Memory};

use super::Source;
use crate::weights::LoadError;

/// A norm with its weight.
pub(crate) struct Norm<M: Memory> {
    /// `[1, n]`.
    weight: M::Tensor,
    eps: f32,
}

impl<M: Memory> Norm<M> {
    /// Takes the weight `name.weight` of `length` elements.
    pub(crate) fn load(source: &mut Source<M>, name: &str, length: usize) -> std::result::Result<Self, LoadError> {
        let values = source.vector(&format!("{name}.weight"), length, 0..length)?;
        Ok(Self { weight: source.upload(&values)?, eps: source.config().rms_norm_eps })
    }

    /// The weight, `[1, n]`.
    pub(crate) fn weight(&self) -> &M::Tensor {
        &self.weight
    }

    /// Adds the last branch's output to the residual stream, if there is one, and normalises the sum.
    pub(crate) fn forward(&self, device: &M, residual: &mut M::Tensor, branch: Option<&M::Tensor>) -> Result<M::Tensor>
    where
        M: Backend,
    {
        match branch {
            None => device.rms_norm(residual, &self.weight, self.eps),
            Some(branch) => device.add_rms_norm(residual, branch, &self.weight, self.eps),
        }
    }
}

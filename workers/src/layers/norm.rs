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
    pub(crate) fn load(source: &Source<M>, name: &str, length: usize) -> std::result::Result<Self, LoadError> {
        Self::with_eps(source, name, length, source.config().rms_norm_eps)
    }

    /// The same with another `eps` than the model's.
    pub(crate) fn with_eps(
        source: &Source<M>,
        name: &str,
        length: usize,
        eps: f32,
    ) -> std::result::Result<Self, LoadError> {
        let mut values = source.vector(&format!("{name}.weight"), length, 0..length)?;
        values.iter_mut().for_each(|value| *value += source.config().norm_offset);
        Ok(Self { weight: source.upload(&values)?, eps })
    }

    /// The weight, `[1, n]`.
    pub(crate) fn weight(&self) -> &M::Tensor {
        &self.weight
    }

    /// What is added to the mean square.
    pub(crate) fn eps(&self) -> f32 {
        self.eps
    }

    /// Normalises `x`.
    pub(crate) fn of(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.rms_norm(x, &self.weight, self.eps)
    }

    /// Adds the last branch's output to the residual stream, if there is one, and normalises the sum.
    pub(crate) fn forward(&self, device: &M, residual: &mut M::Tensor, branch: Option<&M::Tensor>) -> Result<M::Tensor>
    where
        M: Backend,
    {
        match branch {
            None => self.of(device, residual),
            Some(branch) => device.add_rms_norm(residual, branch, &self.weight, self.eps),
        }
    }
}

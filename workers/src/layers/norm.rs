//! Root-mean-square norms, replicated on every rank.

use kernels::{Backend, Result, all_reduce::NormAfter, memory::Memory};

use super::Source;
use crate::{models::ModelConfig, weights::LoadError};

/// A norm with its weight.
pub(crate) struct Norm<M: Memory> {
    /// `[1, n]`.
    weight: M::Tensor,
    eps: f32,
    /// What a branch's output is multiplied by before it joins the residual stream.
    branch_scale: f32,
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
        Self::scaled(source, name, length, (eps, 1.0))
    }

    /// The same, with what comes of it multiplied by `scale`.
    pub(crate) fn scaled(
        source: &Source<M>,
        name: &str,
        length: usize,
        (eps, scale): (f32, f32),
    ) -> std::result::Result<Self, LoadError> {
        let ModelConfig { norm_offset, branch_scale, .. } = *source.config();
        let mut values = source.vector(&format!("{name}.weight"), length, 0..length)?;
        values.iter_mut().for_each(|value| *value = (*value + norm_offset) * scale);
        Ok(Self { weight: source.upload(&values)?, eps, branch_scale })
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
    pub(crate) fn forward(&self, device: &M, residual: &mut M::Tensor, branch: Option<Branch<M>>) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let Self { weight, eps, branch_scale: scale } = self;
        match branch {
            None => self.of(device, residual),
            Some(Branch::Whole(branch)) => device.add_rms_norm(residual, &branch, *scale, weight, *eps),
            Some(Branch::Part(part)) => {
                device.all_reduce_add_rms_norm(residual, part, NormAfter { scale: *scale, weight, eps: *eps })
            }
        }
    }

    /// Normalises a branch's output before it joins.
    pub(crate) fn of_branch(&self, device: &M, branch: Branch<M>) -> Result<Branch<M>>
    where
        M: Backend,
    {
        Ok(Branch::Whole(self.of(device, &branch.whole(device)?)?))
    }
}

/// What attention or MLP answers, before it joins the residual stream: `[rows, hidden size]`.
pub(crate) enum Branch<M: Memory> {
    /// This rank's part of the sum.
    Part(M::Tensor),
    /// The sum, the same on all ranks.
    Whole(M::Tensor),
}

impl<B: Backend> Branch<B> {
    /// The sum over the ranks.
    pub(crate) fn whole(self, device: &B) -> Result<B::Tensor> {
        match self {
            Self::Whole(sum) => Ok(sum),
            Self::Part(mut sum) => device.all_reduce(&mut sum).map(|()| sum),
        }
    }

    /// That of some rows, in their order.
    pub(crate) fn select(&self, device: &B, rows: &[u32]) -> Result<Self> {
        Ok(match self {
            Self::Part(part) => Self::Part(device.select_rows(part, rows)?),
            Self::Whole(sum) => Self::Whole(device.select_rows(sum, rows)?),
        })
    }
}

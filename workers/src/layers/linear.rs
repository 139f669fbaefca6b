//! Linear layers: `x · Wᵀ + bias`, of which a rank owns some outputs or some inputs.

use std::ops::Range;

use kernels::{Backend, Result, glu::Activation, memory::Memory};

use super::Source;
use crate::{models::Role, weights::LoadError};

/// Matrices over the same input, one after the other; each rank computes its own outputs, no communication.
pub(crate) struct ColumnParallel<M: Memory> {
    /// `[own outputs of all parts, inputs]`.
    weight: M::Weight,
    /// `[1, own outputs of all parts]`.
    bias: Option<M::Tensor>,
}

/// One matrix of a fused layer.
pub(crate) struct Part {
    /// Its name, without `.weight`.
    pub name: String,
    /// Its outputs in the whole model.
    pub outputs: usize,
    /// This rank's outputs of them.
    pub own: Range<usize>,
}

impl<M: Memory> ColumnParallel<M> {
    /// Takes this rank's outputs of every part.
    pub(crate) fn load(
        source: &Source<M>,
        parts: &[Part],
        inputs: usize,
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        Self::in_role(source, parts, inputs, bias, Role::Linear)
    }

    /// A router: all outputs of one matrix, on every rank.
    pub(crate) fn router(
        source: &Source<M>,
        name: &str,
        (outputs, inputs): (usize, usize),
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let parts = [Part { name: name.into(), outputs, own: 0..outputs }];
        Self::in_role(source, &parts, inputs, bias, Role::Router)
    }

    fn in_role(
        source: &Source<M>,
        parts: &[Part],
        inputs: usize,
        bias: bool,
        role: Role,
    ) -> std::result::Result<Self, LoadError> {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for Part { name, outputs, own } in parts {
            weights.push(source.matrix(&format!("{name}.weight"), *outputs, inputs)?.row_range(own.clone()));
            if bias {
                biases.extend(source.vector(&format!("{name}.bias"), *outputs, own.clone())?);
            }
        }
        let weight = source.factor(weights, role)?;
        Ok(Self { weight, bias: bias.then(|| source.upload(&biases)).transpose()? })
    }

    /// Takes all outputs of one matrix, on every rank.
    pub(crate) fn whole(
        source: &Source<M>,
        name: &str,
        (outputs, inputs): (usize, usize),
    ) -> std::result::Result<Self, LoadError> {
        Self::load(source, &[Part { name: name.into(), outputs, own: 0..outputs }], inputs, false)
    }

    /// `[rows, own outputs]` from `x [rows, inputs]`.
    pub(crate) fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.matmul(x, &self.weight, self.bias.as_ref())
    }

    /// `[rows, own outputs / 2]`, where there are two parts as large as each other: those of the first are the gates of
    /// those of the second.
    pub(crate) fn gated(&self, device: &M, x: &M::Tensor, activation: Activation) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.gated_product(x, &self.weight, self.bias.as_ref(), activation)
    }

    /// The product as what something is chosen by.
    pub(crate) fn scores(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.scores(x, &self.weight, self.bias.as_ref())
    }
}

/// A matrix of which each rank has some inputs; the ranks' outputs are parts of a sum.
pub(crate) struct RowParallel<M: Memory> {
    /// `[outputs, own inputs]`.
    weight: M::Weight,
    /// `[1, outputs]`, on the first rank only: it must be added once.
    bias: Option<M::Tensor>,
}

impl<M: Memory> RowParallel<M> {
    /// Takes columns `own` of the matrix `name`, `outputs × inputs` in the whole model.
    pub(crate) fn load(
        source: &Source<M>,
        name: &str,
        (outputs, inputs): (usize, usize),
        own: Range<usize>,
        bias: bool,
    ) -> std::result::Result<Self, LoadError> {
        let whole = source.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let weight = source.factor(vec![whole.column_range(own)], Role::Linear)?;
        let bias = match bias {
            true => Some(source.vector(&format!("{name}.bias"), outputs, 0..outputs)?),
            false => None,
        };
        let bias = bias.filter(|_| source.shard.rank == 0).map(|values| source.upload(&values)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// This rank's part of `[rows, outputs]`, from its `x [rows, own inputs]`.
    pub(crate) fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        device.matmul(x, &self.weight, self.bias.as_ref())
    }
}

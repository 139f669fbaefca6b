//! The gated MLP: `down(activation(gate x) · up x)`, split by its width.

use kernels::{Backend, Result, glu::Activation, memory::Memory};

use super::{ColumnParallel, Part, RowParallel, Source};
use crate::weights::LoadError;

/// A layer's MLP, or the experts that all its tokens go to.
pub(crate) struct Mlp<M: Memory> {
    /// Gate rows first, then up rows.
    gate_up_proj: ColumnParallel<M>,
    down_proj: RowParallel<M>,
    activation: Activation,
}

impl<M: Memory> Mlp<M> {
    /// Takes this rank's part of the MLP called `name`, `width` wide.
    pub(crate) fn load(source: &Source<M>, name: &str, width: usize) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let (hidden_size, bias) = (config.hidden_size, config.mlp_bias);
        let down = format!("{name}.down_proj");
        let block = source.matrix(&format!("{down}.weight"), hidden_size, width)?.dtype().block_elements();
        let own = source.shard.width(width, block);
        let part = |proj: &str| Part { name: format!("{name}.{proj}"), outputs: width, own: own.clone() };
        let parts = [part("gate_proj"), part("up_proj")];
        Ok(Self {
            gate_up_proj: ColumnParallel::load(source, &parts, hidden_size, bias)?,
            down_proj: RowParallel::load(source, &down, (hidden_size, width), own, bias)?,
            activation: config.activation,
        })
    }

    /// This rank's part of `[rows, hidden size]`, from `x` of the same shape.
    pub(crate) fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let inner = self.gate_up_proj.gated(device, x, self.activation)?;
        self.down_proj.forward(device, &inner)
    }
}

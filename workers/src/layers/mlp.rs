//! The SwiGLU block: `down(silu(gate x) · up x)`, split by its width.

use kernels::{Backend, Result, memory::Memory};

use super::{ColumnParallel, Part, RowParallel, Source};
use crate::weights::LoadError;

/// A layer's MLP.
pub(crate) struct Mlp<M: Memory> {
    /// Gate rows first, then up rows.
    gate_up_proj: ColumnParallel<M>,
    down_proj: RowParallel<M>,
}

impl<M: Memory> Mlp<M> {
    /// Takes this rank's width of the MLP called `name`.
    pub(crate) fn load(source: &mut Source<M>, name: &str) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let (hidden_size, outputs, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        let down = format!("{name}.down_proj");
        let block = source.matrix(&format!("{down}.weight"), hidden_size, outputs)?.dtype().block_elements();
        let own = source.shard.width(outputs, block);
        let part = |proj: &str| Part { name: format!("{name}.{proj}"), outputs, own: own.clone() };
        let parts = [part("gate_proj"), part("up_proj")];
        Ok(Self {
            gate_up_proj: ColumnParallel::load(source, &parts, hidden_size, bias)?,
            down_proj: RowParallel::load(source, &down, (hidden_size, outputs), own, bias)?,
        })
    }

    /// `[rows, hidden size]` from `x` of the same shape.
    pub(crate) fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let gate_up = self.gate_up_proj.forward(device, x)?;
        self.down_proj.forward(device, &device.silu_mul(&gate_up)?)
    }
}

//! A mixture of experts: a router on every rank, and experts that are split by their width or handed out whole.

use std::ops::Range;

use kernels::{
    Backend, Result,
    memory::Memory,
    moe::{Experts, Routing},
};

use super::{ColumnParallel, Mlp, Source};
use crate::{
    models::{ModelConfig, Moe, Role},
    weights::LoadError,
};

/// A layer's experts.
pub(crate) struct MixtureOfExperts<M: Memory> {
    /// The router; every rank computes the same.
    gate: ColumnParallel<M>,
    /// `[1, experts]`: added for choosing.
    e_score_correction_bias: Option<M::Tensor>,
    routing: Routing,
    experts: Experts<M>,
    /// Those that every token goes to.
    shared_experts: Option<Mlp<M>>,
}

impl<M: Memory> MixtureOfExperts<M> {
    /// Takes this rank's part of the experts of the block called `name`.
    pub(crate) fn load(source: &Source<M>, name: &str, moe: &Moe) -> std::result::Result<Self, LoadError> {
        let size = (moe.experts, source.config().hidden_size);
        let bias = match moe.correction_bias {
            true => {
                Some(source.vector(&format!("{name}.gate.e_score_correction_bias"), moe.experts, 0..moe.experts)?)
            }
            false => None,
        };
        let shared = format!("{name}.shared_experts");
        Ok(Self {
            gate: ColumnParallel::router(source, &format!("{name}.gate"), size, moe.bias)?,
            e_score_correction_bias: bias.map(|bias| source.upload(&bias)).transpose()?,
            routing: moe.routing.clone(),
            experts: Own::of(source, name, moe)?.load(source, name, moe)?,
            shared_experts: match moe.shared_width {
                0 => None,
                width => Some(Mlp::load(source, &shared, width)?),
            },
        })
    }

    /// This rank's part of `[rows, hidden size]`, from `x` of the same shape.
    pub(crate) fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let logits = self.gate.scores(device, x)?;
        let routes = device.route(&logits, self.e_score_correction_bias.as_ref(), &self.routing)?;
        let shared = self.shared_experts.as_ref().map(|shared| shared.forward(device, x)).transpose()?;
        device.experts(x, &routes, &self.experts, shared)
    }
}

/// What a rank has of the experts.
struct Own {
    /// Which of them …
    experts: Range<usize>,
    /// … and what part of their width.
    width: Range<usize>,
    /// Whether it adds the biases of their outputs: of an expert that many share, one rank does.
    adds_bias: bool,
}

impl Own {
    fn of<M: Memory>(source: &Source<M>, name: &str, moe: &Moe) -> std::result::Result<Self, LoadError> {
        if source.options.whole_experts {
            let experts = source.shard.split(moe.experts, 1);
            return Ok(Self { experts, width: 0..moe.width, adds_bias: true });
        }
        let down =
            source.matrix(&format!("{name}.experts.0.down_proj.weight"), source.config().hidden_size, moe.width)?;
        let width = source.shard.width(moe.width, down.dtype().block_elements());
        Ok(Self { experts: 0..moe.experts, width, adds_bias: source.shard.rank == 0 })
    }

    fn load<M: Memory>(&self, source: &Source<M>, name: &str, moe: &Moe) -> std::result::Result<Experts<M>, LoadError> {
        let ModelConfig { hidden_size, activation, .. } = *source.config();
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        let (mut gate_up_bias, mut down_bias) = (Vec::new(), Vec::new());
        for expert in 0..moe.experts {
            let field = |field: &str| format!("{name}.experts.{expert}.{field}");
            let is_own = self.experts.contains(&expert);
            for proj in ["gate_proj", "up_proj"] {
                let whole = source.matrix(&field(&format!("{proj}.weight")), moe.width, hidden_size)?;
                gate_up.extend(is_own.then(|| whole.row_range(self.width.clone())));
                if moe.bias {
                    let bias = source.vector(&field(&format!("{proj}.bias")), moe.width, self.width.clone())?;
                    gate_up_bias.extend(bias.into_iter().filter(|_| is_own));
                }
            }
            let whole = source.matrix(&field("down_proj.weight"), hidden_size, moe.width)?;
            down.extend(is_own.then(|| whole.column_range(self.width.clone())));
            if moe.bias {
                let bias = source.vector(&field("down_proj.bias"), hidden_size, 0..hidden_size)?;
                down_bias.extend(bias.into_iter().filter(|_| is_own));
            }
        }
        Ok(Experts {
            first: self.experts.start,
            count: self.experts.len(),
            chosen: moe.routing.chosen,
            gate_up: source.factor(gate_up, Role::Expert)?,
            gate_up_bias: moe.bias.then(|| source.upload(&gate_up_bias)).transpose()?,
            down: source.factor(down, Role::Expert)?,
            down_bias: (moe.bias && self.adds_bias).then(|| source.upload(&down_bias)).transpose()?,
            activation,
        })
    }
}

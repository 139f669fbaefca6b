//! Multi-head latent attention (DeepSeek), split by query heads. The cache holds the latent vector and the turned part of
//! the key, the same on all ranks.

use kernels::{Backend, Heads, Result, attention::Scoring, memory::Memory, mla::LatentHeads};

use super::{ColumnParallel, Norm, Part, RowParallel, Source};
use crate::{
    models::{Latent, Role},
    weights::{LoadError, Stored, transposed},
};

/// A layer's attention.
pub(crate) struct LatentAttention<M: Memory> {
    queries: Queries<M>,
    /// `[latent + rope, hidden size]`, whole on every rank.
    kv_a_proj_with_mqa: ColumnParallel<M>,
    kv_a_layernorm: Norm<M>,
    /// `[own query heads × latent, nope]`: a head's queries into the latent space.
    k_b_proj: M::Weight,
    /// `[own query heads × value, latent]`: what attention answers out of it.
    v_b_proj: M::Weight,
    o_proj: RowParallel<M>,
    own: LatentHeads,
    heads: Heads,
    layer: usize,
    scale: f32,
}

/// From hidden states to queries.
enum Queries<M: Memory> {
    Direct { q_proj: ColumnParallel<M> },
    Compressed { q_a_proj: ColumnParallel<M>, q_a_layernorm: Norm<M>, q_b_proj: ColumnParallel<M> },
}

impl<M: Memory> LatentAttention<M> {
    /// Takes this rank's heads of layer `layer`'s attention, called `name`.
    pub(crate) fn load(
        source: &Source<M>,
        name: &str,
        layer: usize,
        latent: &Latent,
    ) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let Latent { kv_lora_rank, rope_dim, value_dim, eps, .. } = *latent;
        let own = source.shard.split(config.heads, 1);
        let field = |field: &str| format!("{name}.{field}");
        let (k_b_proj, v_b_proj) = up_projections(source, name, latent)?;
        let some = |heads: Vec<Stored>| source.weight(heads[own.clone()].to_vec(), Role::Linear);
        let values = own.start * value_dim..own.end * value_dim;
        let key = kv_lora_rank + rope_dim;
        Ok(Self {
            queries: Queries::load(source, name, latent)?,
            kv_a_proj_with_mqa: ColumnParallel::whole(source, &field("kv_a_proj_with_mqa"), (key, config.hidden_size))?,
            kv_a_layernorm: Norm::with_eps(source, &field("kv_a_layernorm"), kv_lora_rank, eps)?,
            k_b_proj: some(k_b_proj)?,
            v_b_proj: some(v_b_proj)?,
            o_proj: RowParallel::load(
                source,
                &field("o_proj"),
                (config.hidden_size, config.heads * value_dim),
                values,
                false,
            )?,
            own: latent.heads(own.len()),
            heads: Heads {
                query: own.len(),
                kv: 1,
                dim: key,
                group: own.len(),
                first_in_group: 0,
                values_from: Some(rope_dim),
            },
            layer,
            scale: config.attention_scale,
        })
    }

    /// This rank's part of `[tokens, hidden size]`, from `x` of the same shape; the tokens' latent vectors enter the cache.
    pub(crate) fn forward(
        &self,
        device: &M,
        x: &M::Tensor,
        angles: &M::Angles,
        batch: &M::Batch,
        cache: &mut M::KvCache,
    ) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let queries = self.queries.forward(device, x)?;
        let kv = self.kv_a_proj_with_mqa.forward(device, x)?;
        let norm = (self.kv_a_layernorm.weight(), self.kv_a_layernorm.eps());
        let mut rows = device.latent_rows(&queries, &kv, norm, &self.k_b_proj, &self.own)?;
        device.rotary_store(&mut rows, &self.heads, None, angles, (cache, self.layer), batch)?;
        let scoring = Scoring { scale: self.scale, window: None, sinks: None };
        let attended = device.attention(&rows, cache, self.layer, &self.heads, &scoring, batch)?;
        self.o_proj.forward(device, &device.latent_values(&attended, &self.v_b_proj, &self.own)?)
    }
}

/// Of every head the matrices `[latent, nope]` and `[value, latent]`. Most files have them in one, head by head, the
/// former transposed.
fn up_projections<M: Memory>(
    source: &Source<M>,
    name: &str,
    latent: &Latent,
) -> std::result::Result<(Vec<Stored>, Vec<Stored>), LoadError> {
    let Latent { kv_lora_rank, nope_dim, value_dim, .. } = *latent;
    let heads = source.config().heads;
    let of_head = |whole: &Stored, head: usize, rows: usize| whole.row_range(head * rows..(head + 1) * rows);
    if source.has(&format!("{name}.k_b_proj.weight")) {
        let keys = source.matrix(&format!("{name}.k_b_proj.weight"), heads * kv_lora_rank, nope_dim)?;
        let values = source.matrix(&format!("{name}.v_b_proj.weight"), heads * value_dim, kv_lora_rank)?;
        let each = |whole: &Stored, rows| (0..heads).map(|head| of_head(whole, head, rows)).collect();
        return Ok((each(&keys, kv_lora_rank), each(&values, value_dim)));
    }
    let both = source.matrix(&format!("{name}.kv_b_proj.weight"), heads * (nope_dim + value_dim), kv_lora_rank)?;
    let both = (0..heads).map(|head| of_head(&both, head, nope_dim + value_dim));
    let split =
        |head: Stored| (transposed(head.row_range(0..nope_dim)), head.row_range(nope_dim..nope_dim + value_dim));
    Ok(both.map(split).unzip())
}

impl<M: Memory> Queries<M> {
    fn load(source: &Source<M>, name: &str, latent: &Latent) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let own = source.shard.split(config.heads, 1);
        let dim = config.head_dim;
        let part = |proj: &str| Part {
            name: format!("{name}.{proj}"),
            outputs: config.heads * dim,
            own: own.start * dim..own.end * dim,
        };
        let Some(rank) = latent.q_lora_rank else {
            let q_proj = ColumnParallel::load(source, &[part("q_proj")], config.hidden_size, false)?;
            return Ok(Self::Direct { q_proj });
        };
        let size = (rank, config.hidden_size);
        Ok(Self::Compressed {
            q_a_proj: ColumnParallel::whole(source, &format!("{name}.q_a_proj"), size)?,
            q_a_layernorm: Norm::with_eps(source, &format!("{name}.q_a_layernorm"), rank, latent.eps)?,
            q_b_proj: ColumnParallel::load(source, &[part("q_b_proj")], rank, false)?,
        })
    }

    /// `[tokens, own query heads × (nope + rope)]`.
    fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        match self {
            Self::Direct { q_proj } => q_proj.forward(device, x),
            Self::Compressed { q_a_proj, q_a_layernorm, q_b_proj } => {
                let compressed = q_a_proj.forward(device, x)?;
                q_b_proj.forward(device, &q_a_layernorm.of(device, &compressed)?)
            }
        }
    }
}

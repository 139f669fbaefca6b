//! Causal self-attention over the paged KV cache, split by query heads.

use kernels::{Backend, Heads, Result, attention::Scoring, memory::Memory, rotary::HeadNorms};

use super::{ColumnParallel, Norm, Part, RowParallel, Source};
use crate::weights::LoadError;

/// A layer's attention.
pub(crate) struct Attention<M: Memory> {
    /// Query heads first, then key heads, then value heads.
    qkv_proj: ColumnParallel<M>,
    /// Norms of every query and of every key head, in families that have them.
    qk_norm: Option<(Norm<M>, Norm<M>)>,
    o_proj: RowParallel<M>,
    /// `[1, own query heads]`, in families that have them.
    sinks: Option<M::Tensor>,
    heads: Heads,
    layer: usize,
    scale: f32,
    window: Option<usize>,
}

impl<M: Memory> Attention<M> {
    /// Takes this rank's heads of layer `layer`'s attention, called `name`.
    pub(crate) fn load(source: &Source<M>, name: &str, layer: usize) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let hidden_size = config.hidden_size;
        let (query_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let own = source.shard.heads(config);
        let (query, kv) = (own.elements(&own.query), own.elements(&own.kv));
        let part = |proj: &str, outputs, own| Part { name: format!("{name}.{proj}"), outputs, own };
        let parts = [
            part("q_proj", query_width, query.clone()),
            part("k_proj", kv_width, kv.clone()),
            part("v_proj", kv_width, kv),
        ];
        let norm = |norm: &str| Norm::load(source, &format!("{name}.{norm}"), config.head_dim);
        let qk_norm = if config.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None };
        let sinks = match config.sinks {
            true => Some(source.vector(&format!("{name}.sinks"), config.heads, own.query.clone())?),
            false => None,
        };
        let o_proj = format!("{name}.o_proj");
        Ok(Self {
            qkv_proj: ColumnParallel::load(source, &parts, hidden_size, config.qkv_bias)?,
            qk_norm,
            o_proj: RowParallel::load(source, &o_proj, (hidden_size, query_width), query, config.o_bias)?,
            sinks: sinks.map(|sinks| source.upload(&sinks)).transpose()?,
            heads: own.heads(),
            layer,
            scale: config.attention_scale,
            window: config.windows[layer],
        })
    }

    /// This rank's part of `[tokens, hidden size]`, from `x` of the same shape; the tokens' keys and values enter the cache.
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
        let heads = &self.heads;
        let mut qkv = self.qkv_proj.forward(device, x)?;
        let norms = self.qk_norm.as_ref().map(|(query, key)| HeadNorms {
            query: query.weight(),
            key: key.weight(),
            eps: query.eps(),
        });
        device.rotary_store(&mut qkv, heads, norms, angles, (cache, self.layer), batch)?;
        let scoring = Scoring { scale: self.scale, window: self.window, sinks: self.sinks.as_ref() };
        let attended = device.attention(&qkv, cache, self.layer, heads, &scoring, batch)?;
        self.o_proj.forward(device, &attended)
    }
}

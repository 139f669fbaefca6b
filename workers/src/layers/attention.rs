//! Causal self-attention over the paged KV cache, split by query heads.

use kernels::{Backend, Heads, Result, memory::Memory};

use super::{ColumnParallel, Norm, Part, Rotary, RowParallel, Source};
use crate::weights::LoadError;

/// A layer's attention.
pub(crate) struct Attention<M: Memory> {
    /// Query heads first, then key heads, then value heads.
    qkv_proj: ColumnParallel<M>,
    /// Norms of every query and of every key head, in families that have them.
    qk_norm: Option<(Norm<M>, Norm<M>)>,
    o_proj: RowParallel<M>,
    heads: Heads,
    layer: usize,
    eps: f32,
}

impl<M: Memory> Attention<M> {
    /// Takes this rank's heads of layer `layer`'s attention, called `name`.
    pub(crate) fn load(source: &mut Source<M>, name: &str, layer: usize) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let (hidden_size, bias) = (config.hidden_size, config.attention_bias);
        let (query_width, kv_width) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let own = source.shard.heads(config);
        let (query, kv) = (own.elements(&own.query), own.elements(&own.kv));
        let part = |proj: &str, outputs, own| Part { name: format!("{name}.{proj}"), outputs, own };
        let parts = [
            part("q_proj", query_width, query.clone()),
            part("k_proj", kv_width, kv.clone()),
            part("v_proj", kv_width, kv),
        ];
        let mut norm = |norm: &str| Norm::load(source, &format!("{name}.{norm}"), config.head_dim);
        let qk_norm = if config.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None };
        Ok(Self {
            qkv_proj: ColumnParallel::load(source, &parts, hidden_size, bias)?,
            qk_norm,
            o_proj: RowParallel::load(source, &format!("{name}.o_proj"), (hidden_size, query_width), query, bias)?,
            heads: own.heads(),
            layer,
            eps: config.rms_norm_eps,
        })
    }

    /// `[tokens, hidden size]` from `x` of the same shape; the tokens' keys and values enter the cache.
    pub(crate) fn forward(
        &self,
        device: &M,
        x: &M::Tensor,
        rotary: &Rotary<M>,
        batch: &M::Batch,
        cache: &mut M::KvCache,
    ) -> Result<M::Tensor>
    where
        M: Backend,
    {
        let heads = &self.heads;
        let mut qkv = self.qkv_proj.forward(device, x)?;
        if let Some((query, key)) = &self.qk_norm {
            device.rms_norm_heads(&mut qkv, heads, query.weight(), key.weight(), self.eps)?;
        }
        rotary.forward(device, &mut qkv, heads, batch)?;
        device.store_kv(cache, self.layer, &qkv, heads, batch)?;
        let scale = (heads.dim as f32).sqrt().recip();
        let attended = device.attention(&qkv, cache, self.layer, heads, scale, batch)?;
        self.o_proj.forward(device, &attended)
    }
}

//! The decoder that all families share so far: what differs between them is in their [`ModelConfig`].
//!
//! [`ModelConfig`]: super::ModelConfig

use kernels::{Backend, Result, memory::Memory};

use super::{HiddenStates, LoadOptions, Model};
use crate::{
    layers::{Attention, Mlp, Norm, Rotary, Source, Vocabulary},
    weights::LoadError,
};

/// A model's weights, one rank's shard. Fields are called as the checkpoint calls them.
pub(super) struct Decoder<M: Memory> {
    embed_tokens: Vocabulary<M>,
    layers: Vec<Layer<M>>,
    norm: Norm<M>,
    /// `None`: the embedding is the head, too.
    lm_head: Option<Vocabulary<M>>,
    rotary: Rotary<M>,
    weight_bytes: u64,
}

/// One decoder layer.
struct Layer<M: Memory> {
    input_layernorm: Norm<M>,
    self_attn: Attention<M>,
    post_attention_layernorm: Norm<M>,
    mlp: Mlp<M>,
}

impl<M: Memory> Decoder<M> {
    /// Takes this rank's shard of every weight, telling `progress` the share done, `0..=1`.
    pub(super) fn load(
        source: &mut Source<M>,
        options: LoadOptions,
        progress: &mut dyn FnMut(f32),
    ) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let embed_tokens = Vocabulary::load(source, "model.embed_tokens")?;
        let mut layers = Vec::new();
        for layer in 0..config.layers {
            progress(layer as f32 / config.layers as f32);
            layers.push(Layer::load(source, layer)?);
        }
        let norm = Norm::load(source, "model.norm", config.hidden_size)?;
        let lm_head = if config.tied { None } else { Some(Vocabulary::load(source, "lm_head")?) };
        let rotary = Rotary::new(source, options.max_model_len)?;
        progress(1.0);
        Ok(Self { embed_tokens, layers, norm, lm_head, rotary, weight_bytes: source.weight_bytes() })
    }
}

impl<B: Backend> Model<B> for Decoder<B> {
    fn forward(&self, device: &B, batch: &B::Batch, cache: &mut B::KvCache) -> Result<HiddenStates<B>> {
        let mut residual = self.embed_tokens.embed(device, batch)?;
        let mut branch = None;
        for layer in &self.layers {
            branch = Some(layer.forward(device, &mut residual, branch, &self.rotary, batch, cache)?);
        }
        Ok(HiddenStates { residual, branch })
    }

    fn normed(&self, device: &B, hidden: &HiddenStates<B>, rows: &[u32]) -> Result<B::Tensor> {
        let mut residual = device.select_rows(&hidden.residual, rows)?;
        let branch = hidden.branch.as_ref().map(|branch| device.select_rows(branch, rows)).transpose()?;
        self.norm.forward(device, &mut residual, branch.as_ref())
    }

    fn logits(&self, device: &B, normed: &B::Tensor) -> Result<B::Tensor> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).logits(device, normed)
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

impl<M: Memory> Layer<M> {
    fn load(source: &mut Source<M>, layer: usize) -> std::result::Result<Self, LoadError> {
        let hidden_size = source.config().hidden_size;
        let name = |field: &str| format!("model.layers.{layer}.{field}");
        Ok(Self {
            input_layernorm: Norm::load(source, &name("input_layernorm"), hidden_size)?,
            self_attn: Attention::load(source, &name("self_attn"), layer)?,
            post_attention_layernorm: Norm::load(source, &name("post_attention_layernorm"), hidden_size)?,
            mlp: Mlp::load(source, &name("mlp"))?,
        })
    }
}

impl<B: Backend> Layer<B> {
    /// Adds `branch`, the layer before's last output, and this layer's attention to the residual stream, and gives its
    /// MLP's output: the next norm adds it on its way.
    fn forward(
        &self,
        device: &B,
        residual: &mut B::Tensor,
        branch: Option<B::Tensor>,
        rotary: &Rotary<B>,
        batch: &B::Batch,
        cache: &mut B::KvCache,
    ) -> Result<B::Tensor> {
        let normed = self.input_layernorm.forward(device, residual, branch.as_ref())?;
        let attended = self.self_attn.forward(device, &normed, rotary, batch, cache)?;
        let normed = self.post_attention_layernorm.forward(device, residual, Some(&attended))?;
        self.mlp.forward(device, &normed)
    }
}

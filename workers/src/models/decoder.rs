//! The decoder that all families share: what differs between them is in their [`ModelConfig`].
//!
//! [`ModelConfig`]: super::ModelConfig

use kernels::{Backend, Result, memory::Memory};

use super::{BranchNorms, HiddenStates, LoadOptions, Model, Rope};
use crate::{
    layers::{Attention, Branch, LatentAttention, MixtureOfExperts, Mlp, Norm, Source, Vocabulary},
    weights::LoadError,
};

/// A model's weights, one rank's shard. Fields are called as the checkpoint calls them.
pub(super) struct Decoder<M: Memory> {
    embed_tokens: Vocabulary<M>,
    embedding_scale: f32,
    layers: Vec<Layer<M>>,
    norm: Norm<M>,
    /// `None`: the embedding is the head, too.
    lm_head: Option<Vocabulary<M>>,
    angles: M::Angles,
    /// Those of layers with a window, where they are others.
    window_angles: Option<M::Angles>,
    weight_bytes: u64,
}

/// One decoder layer.
struct Layer<M: Memory> {
    input_layernorm: Norm<M>,
    self_attn: SelfAttention<M>,
    /// Of what attention answers, in families that have it.
    attention_norm: Option<Norm<M>>,
    /// Before the MLP.
    mlp_layernorm: Norm<M>,
    mlp: FeedForward<M>,
    /// Of what the MLP answers, in families that have it.
    mlp_norm: Option<Norm<M>>,
    has_window: bool,
}

/// The kinds of attention.
enum SelfAttention<M: Memory> {
    Heads(Attention<M>),
    Latent(LatentAttention<M>),
}

/// The kinds of what comes after it.
enum FeedForward<M: Memory> {
    Mlp(Mlp<M>),
    Experts(MixtureOfExperts<M>),
}

impl<M: Memory> Decoder<M> {
    /// Takes this rank's shard of every weight, telling `progress` the share done, `0..=1`.
    pub(super) fn load(
        source: &Source<M>,
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
        let norm_scale = (config.rms_norm_eps, config.logit_scale);
        let norm = Norm::scaled(source, "model.norm", config.hidden_size, norm_scale)?;
        let lm_head = if config.tied { None } else { Some(Vocabulary::load(source, "lm_head")?) };
        lm_head.as_ref().unwrap_or(&embed_tokens).prepare(source.device);
        let angles = |rope: &Rope| source.device.angles(rope.turns(options.max_model_len));
        progress(1.0);
        Ok(Self {
            embed_tokens,
            embedding_scale: config.embedding_scale,
            layers,
            norm,
            lm_head,
            angles: angles(&config.rope)?,
            window_angles: config.window_rope.as_ref().map(angles).transpose()?,
            weight_bytes: source.inventory().bytes(),
        })
    }
}

impl<B: Backend> Model<B> for Decoder<B> {
    fn forward(&self, device: &B, batch: &B::Batch, cache: &mut B::KvCache) -> Result<HiddenStates<B>> {
        let mut residual = self.embed_tokens.embed(device, self.embedding_scale, batch)?;
        let mut branch = None;
        for layer in &self.layers {
            let angles = self.window_angles.as_ref().filter(|_| layer.has_window).unwrap_or(&self.angles);
            branch = Some(layer.forward(device, &mut residual, branch, angles, batch, cache)?);
        }
        Ok(HiddenStates { residual, branch })
    }

    fn normed(&self, device: &B, HiddenStates { mut residual, branch }: HiddenStates<B>) -> Result<B::Tensor> {
        self.norm.forward(device, &mut residual, branch)
    }

    fn logits(&self, device: &B, normed: &B::Tensor) -> Result<B::Tensor> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).logits(device, normed)
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

impl<M: Memory> Layer<M> {
    fn load(source: &Source<M>, layer: usize) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        let name = |field: &str| format!("model.layers.{layer}.{field}");
        let norm = |field: &str| Norm::load(source, &name(field), config.hidden_size);
        let (of_attention, before_mlp, of_mlp) = match config.branch_norms {
            BranchNorms::None => (None, "post_attention_layernorm", None),
            BranchNorms::Gemma => {
                (Some("post_attention_layernorm"), "pre_feedforward_layernorm", Some("post_feedforward_layernorm"))
            }
            BranchNorms::Glm => {
                (Some("post_self_attn_layernorm"), "post_attention_layernorm", Some("post_mlp_layernorm"))
            }
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: SelfAttention::load(source, &name("self_attn"), layer)?,
            attention_norm: of_attention.map(norm).transpose()?,
            mlp_layernorm: norm(before_mlp)?,
            mlp: FeedForward::load(source, &name("mlp"), layer)?,
            mlp_norm: of_mlp.map(norm).transpose()?,
            has_window: config.windows[layer].is_some(),
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
        branch: Option<Branch<B>>,
        angles: &B::Angles,
        batch: &B::Batch,
        cache: &mut B::KvCache,
    ) -> Result<Branch<B>> {
        let normed = self.input_layernorm.forward(device, residual, branch)?;
        let attended = Branch::Part(self.self_attn.forward(device, &normed, angles, batch, cache)?);
        let attended = normed_if(self.attention_norm.as_ref(), device, attended)?;
        let normed = self.mlp_layernorm.forward(device, residual, Some(attended))?;
        normed_if(self.mlp_norm.as_ref(), device, Branch::Part(self.mlp.forward(device, &normed)?))
    }
}

fn normed_if<B: Backend>(norm: Option<&Norm<B>>, device: &B, branch: Branch<B>) -> Result<Branch<B>> {
    match norm {
        None => Ok(branch),
        Some(norm) => norm.of_branch(device, branch),
    }
}

impl<M: Memory> SelfAttention<M> {
    fn load(source: &Source<M>, name: &str, layer: usize) -> std::result::Result<Self, LoadError> {
        match &source.config().latent {
            None => Attention::load(source, name, layer).map(Self::Heads),
            Some(latent) => LatentAttention::load(source, name, layer, latent).map(Self::Latent),
        }
    }

    fn forward(
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
        match self {
            Self::Heads(heads) => heads.forward(device, x, angles, batch, cache),
            Self::Latent(latent) => latent.forward(device, x, angles, batch, cache),
        }
    }
}

impl<M: Memory> FeedForward<M> {
    fn load(source: &Source<M>, name: &str, layer: usize) -> std::result::Result<Self, LoadError> {
        let config = source.config();
        match config.moe_of(layer) {
            None => Mlp::load(source, name, config.intermediate_size).map(Self::Mlp),
            Some(moe) => MixtureOfExperts::load(source, name, moe).map(Self::Experts),
        }
    }

    fn forward(&self, device: &M, x: &M::Tensor) -> Result<M::Tensor>
    where
        M: Backend,
    {
        match self {
            Self::Mlp(mlp) => mlp.forward(device, x),
            Self::Experts(experts) => experts.forward(device, x),
        }
    }
}

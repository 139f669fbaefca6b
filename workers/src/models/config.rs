//! A model's shape, whatever file it was written in.

use std::path::Path;

use kernels::{glu::Activation, mla::LatentHeads, moe::Routing};

use super::Rope;
use crate::weights::LoadError;

/// All that must be known of a model before its weights. Every value is checked: sizes are neither zero nor absurd, and
/// they fit each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, by its name in transformers: `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// Tokens that the model knows; logits have as many columns.
    pub vocab_size: usize,
    /// Elements of a hidden state.
    pub hidden_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of a query head; `heads × head_dim` need not be the hidden size.
    pub head_dim: usize,
    /// Width of the MLP, of layers without experts.
    pub intermediate_size: usize,
    /// Added to the mean square in a norm.
    pub rms_norm_eps: f32,
    /// Added to every weight of a norm: 1 where they are stored as differences from it.
    pub norm_offset: f32,
    /// Norms beside the two that every layer has.
    pub branch_norms: BranchNorms,
    /// Rotary position embedding …
    pub rope: Rope,
    /// … and that of layers with a window, where it is another one.
    pub window_rope: Option<Rope>,
    /// Of each layer, how many positions a query sees at most, its own included; `None`: all. `[layers]`.
    pub windows: Vec<Option<usize>>,
    /// What attention scores are multiplied by.
    pub attention_scale: f32,
    /// Whether each query head has a score of its own that joins its softmax without a value.
    pub sinks: bool,
    /// Whether query, key and value projections have biases …
    pub qkv_bias: bool,
    /// … and whether the output projection has.
    pub o_bias: bool,
    /// Whether query and key heads are normalised before they are turned.
    pub qk_norm: bool,
    /// Multi-head latent attention, in families that have it.
    pub latent: Option<Latent>,
    /// What the MLP's gate goes through.
    pub activation: Activation,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Layers that are mixtures of experts, in families that have them.
    pub moe: Option<Moe>,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Longest context that the model was made for, tokens.
    pub max_positions: usize,
    /// The token that begins a text, if the model has one.
    pub bos_id: Option<u32>,
    /// Tokens that end a text, by the model's main settings; see also `GenerationConfig`.
    pub eos_ids: Vec<u32>,
}

/// Norms of what attention and MLP answer, before it joins the residual stream; and what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BranchNorms {
    /// There are none.
    None,
    /// `post_attention_layernorm` and `post_feedforward_layernorm`; the MLP's own is `pre_feedforward_layernorm`.
    Gemma,
    /// `post_self_attn_layernorm` and `post_mlp_layernorm`; the MLP's own is `post_attention_layernorm`, as everywhere else.
    Glm,
}

/// Multi-head latent attention: keys and values of all heads are made of one latent vector per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latent {
    /// Elements of the compressed queries; `None`: queries are not compressed.
    pub q_lora_rank: Option<usize>,
    /// Elements of the latent vector.
    pub kv_lora_rank: usize,
    /// Elements of a head that are not turned …
    pub nope_dim: usize,
    /// … and that are; a multiple of eight.
    pub rope_dim: usize,
    /// Elements of a head's value.
    pub value_dim: usize,
    /// Added to the mean square in the norms of both compressed forms.
    pub eps: f32,
}

/// Mixtures of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Moe {
    /// Which layers are, `[layers]`.
    pub layers: Vec<bool>,
    /// Experts of a layer.
    pub experts: usize,
    /// Width of an expert.
    pub width: usize,
    /// Width of the experts that every token goes to, together; 0: none.
    pub shared_width: usize,
    /// How a router's logits become weights.
    pub routing: Routing,
    /// Whether the router has a bias for choosing.
    pub correction_bias: bool,
    /// Whether the router's matrix, and the experts', have biases.
    pub bias: bool,
    /// Whether the folder's experts are stacked as `[inputs, outputs]` with gate and up outputs in turns.
    pub interleaved: bool,
}

impl Latent {
    /// The heads of a rank that has `query` of them.
    pub fn heads(&self, query: usize) -> LatentHeads {
        let Self { kv_lora_rank: latent, nope_dim: nope, rope_dim: rope, value_dim: value, .. } = *self;
        LatentHeads { query, nope, rope, latent, value }
    }
}

impl ModelConfig {
    /// The experts of `layer`, if it is a mixture of them.
    pub fn moe_of(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| moe.layers[layer])
    }

    /// Refuses sizes that are zero, absurd, or do not fit each other; `path` is where they were written.
    pub(super) fn checked(self, path: &Path) -> Result<Self, LoadError> {
        let fault = |fault: String| Err(LoadError::config(path, fault));
        for (name, value, most) in self.sizes() {
            if !(1..=most).contains(&value) {
                return fault(format!("{name} must be between 1 and {most}, got {value}"));
            }
        }
        let Self { heads, kv_heads, .. } = self;
        if !heads.is_multiple_of(kv_heads) {
            return fault(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly"));
        }
        let turned = self.latent.map_or(self.head_dim, |latent| latent.rope_dim);
        for rope in [Some(&self.rope), self.window_rope.as_ref()].into_iter().flatten() {
            if !rope.dim.is_multiple_of(2) || !(2..=turned).contains(&rope.dim) {
                let dim = rope.dim;
                return fault(format!("head_dim must be even for rotary embedding, {dim} of {turned} elements turn"));
            }
            if !(rope.theta > 1.0 && rope.theta <= 1e12) {
                return fault(format!("rope_theta must be between 1 and 1e12, got {}", rope.theta));
            }
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return fault(format!("rms_norm_eps must be between 0 and 1, got {}", self.rms_norm_eps));
        }
        if !(self.attention_scale > 0.0 && self.attention_scale.is_finite()) {
            return fault(format!("attention scores are scaled by {}, which makes no sense", self.attention_scale));
        }
        if self.windows.contains(&Some(0)) {
            return fault("sliding_window must be at least 1".into());
        }
        let moe = self.moe.as_ref().map_or(Ok(()), Moe::check);
        let latent = self.latent.as_ref().map_or(Ok(()), Latent::check);
        match moe.and(latent) {
            Ok(()) => Ok(self),
            Err(what) => fault(what),
        }
    }

    /// Each size with the most that is believed: several times what the largest published models have.
    fn sizes(&self) -> [(&'static str, usize, usize); 8] {
        [
            ("vocab_size", self.vocab_size, 1 << 22),
            ("hidden_size", self.hidden_size, 1 << 17),
            ("num_hidden_layers", self.layers, 1 << 10),
            ("num_attention_heads", self.heads, 1 << 10),
            ("num_key_value_heads", self.kv_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            ("intermediate_size", self.intermediate_size, 1 << 19),
            ("max_position_embeddings", self.max_positions, 1 << 27),
        ]
    }
}

impl Moe {
    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("the number of experts", self.experts, 1, 1 << 12),
            ("an expert's width", self.width, 1, 1 << 19),
            ("the shared experts' width", self.shared_width, 0, 1 << 19),
            ("the number of experts per token", self.routing.chosen, 1, self.experts),
        ];
        for (name, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} must be between {least} and {most}, got {value}"));
            }
        }
        let Some(groups) = self.routing.groups else { return Ok(()) };
        if groups.count == 0 || !self.experts.is_multiple_of(groups.count) {
            return Err(format!("{} experts cannot be grouped into {}", self.experts, groups.count));
        }
        let size = self.experts / groups.count;
        if !(1..=groups.count).contains(&groups.kept) || groups.best > size || self.routing.chosen > groups.kept * size
        {
            return Err(format!(
                "{} of {} groups of {size} experts cannot give each token {} experts",
                groups.kept, groups.count, self.routing.chosen
            ));
        }
        Ok(())
    }
}

impl Latent {
    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1), 1 << 15),
            ("kv_lora_rank", self.kv_lora_rank, 1 << 15),
            ("qk_nope_head_dim", self.nope_dim, 1 << 10),
            ("qk_rope_head_dim", self.rope_dim, 1 << 10),
            ("v_head_dim", self.value_dim, 1 << 10),
        ];
        for (name, value, most) in sizes {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} must be between 1 and {most}, got {value}"));
            }
        }
        if !self.rope_dim.is_multiple_of(8) {
            return Err(format!("qk_rope_head_dim must be a multiple of 8, got {}", self.rope_dim));
        }
        Ok(())
    }
}

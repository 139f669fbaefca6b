//! A model's shape, whatever file it was written in.

use std::path::Path;

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
    /// Elements of a head, even; `heads × head_dim` need not be the hidden size.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Added to the mean square in a norm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Whether query, key, value and output projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP's three matrices have biases.
    pub mlp_bias: bool,
    /// Whether query and key heads are normalised before they are turned.
    pub qk_norm: bool,
    /// Longest context that the model was made for, tokens.
    pub max_positions: usize,
    /// The token that begins a text, if the model has one.
    pub bos_id: Option<u32>,
    /// Tokens that end a text, by the model's main settings; see also `GenerationConfig`.
    pub eos_ids: Vec<u32>,
}

impl ModelConfig {
    /// Refuses sizes that are zero, absurd, or do not fit each other; `path` is where they were written.
    pub(super) fn checked(self, path: &Path) -> Result<Self, LoadError> {
        let fault = |fault: String| Err(LoadError::config(path, fault));
        for (name, value, most) in self.sizes() {
            if !(1..=most).contains(&value) {
                return fault(format!("{name} must be between 1 and {most}, got {value}"));
            }
        }
        let Self { heads, kv_heads, head_dim, .. } = self;
        if !heads.is_multiple_of(kv_heads) {
            return fault(format!("{heads} attention heads cannot share {kv_heads} key-value heads evenly"));
        }
        if !head_dim.is_multiple_of(2) {
            return fault(format!("head_dim must be even for rotary embedding, got {head_dim}"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return fault(format!("rms_norm_eps must be between 0 and 1, got {}", self.rms_norm_eps));
        }
        if !(self.rope.theta > 1.0 && self.rope.theta <= 1e12) {
            return fault(format!("rope_theta must be between 1 and 1e12, got {}", self.rope.theta));
        }
        Ok(self)
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

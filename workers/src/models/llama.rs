//! Llama 2 and 3, and the many models of the same shape (SmolLM2 among them).

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["LlamaForCausalLM"],
    model_type: "llama",
    gguf_name: "llama",
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Interleaved,
    qk_norm: false,
    attention_bias_key: "attention_bias",
    mlp_bias_key: Some("mlp_bias"),
    unsaid: Unsaid { head_dim: None, tied: false, rms_norm_eps: 1e-6, rope_theta: 10_000.0, max_positions: 2048 },
};

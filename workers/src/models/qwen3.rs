//! Qwen3, the dense ones: Llama with a norm on every query and key head.

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    gguf_name: "qwen3",
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    qk_norm: true,
    attention_bias_key: "attention_bias",
    mlp_bias_key: None,
    unsaid: Unsaid {
        head_dim: Some(128),
        tied: false,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_positions: 32_768,
    },
};

//! ERNIE-4.5, the dense ones: Llama with interleaved rotary pairs and tied embeddings.

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
    model_type: "ernie4_5",
    gguf_name: "ernie4_5",
    pairing: Pairing::Interleaved,
    gguf_pairing: Pairing::Interleaved,
    qk_norm: false,
    attention_bias_key: "use_bias",
    mlp_bias_key: Some("use_bias"),
    unsaid: Unsaid {
        head_dim: Some(128),
        tied: true,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        max_positions: 131_072,
    },
};

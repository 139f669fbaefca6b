//! GLM-4 (0414), the dense ones: interleaved pairs on half of each head, and norms of what attention and MLP answer.

use kernels::rotary::Pairing;

use super::{
    BranchNorms,
    family::{Family, Unsaid},
};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Glm4ForCausalLM"],
    model_type: "glm4",
    gguf_names: &["glm4"],
    pairing: Pairing::Interleaved,
    gguf_pairing: Pairing::Interleaved,
    unsaid: UNSAID,
    shape: |fields, config| {
        config.qkv_bias = fields.flag_or("attention_bias", false)?;
        config.branch_norms = BranchNorms::Glm;
        Ok(())
    },
};

/// What GLM's files leave unsaid.
pub(super) const UNSAID: Unsaid = Unsaid {
    head_dim: Some(128),
    rms_norm_eps: 1.5625e-7,
    max_positions: 131_072,
    partial_rotary_factor: 0.5,
    ..Unsaid::LLAMA
};

//! GLM-4.5 and its like: half pairs on half of each head (unlike GLM-4), and DeepSeek's experts.

use kernels::{moe::Scoring, rotary::Pairing};

use super::{
    deepseek,
    family::{Family, Unsaid},
    glm4,
};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Glm4MoeForCausalLM"],
    model_type: "glm4_moe",
    gguf_names: &["glm4moe"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid { rms_norm_eps: 1e-5, ..glm4::UNSAID },
    shape: |fields, config| {
        config.qkv_bias = fields.flag_or("attention_bias", false)?;
        config.qk_norm = fields.flag_or("use_qk_norm", false)?;
        deepseek::experts(fields, config, Scoring::Sigmoid)
    },
};

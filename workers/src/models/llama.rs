//! Llama 2 and 3, and the many models of the same shape (SmolLM2 among them).

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["LlamaForCausalLM"],
    model_type: "llama",
    gguf_names: &["llama"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Interleaved,
    unsaid: Unsaid::LLAMA,
    shape: |fields, config| {
        config.qkv_bias = fields.flag_or("attention_bias", false)?;
        config.o_bias = config.qkv_bias;
        config.mlp_bias = fields.flag_or("mlp_bias", false)?;
        Ok(())
    },
};

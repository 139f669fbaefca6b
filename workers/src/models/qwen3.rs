//! Qwen3, the dense ones: Llama with a norm on every query and key head. Some layers may have a window.

use kernels::rotary::Pairing;

use super::{
    ModelConfig,
    family::{Family, Unsaid},
    qwen2,
};
use crate::weights::{Fields, LoadError};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    gguf_names: &["qwen3"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid { head_dim: Some(128), max_positions: 32_768, ..Unsaid::LLAMA },
    shape,
};

/// Qwen3's attention.
pub(super) fn shape(fields: &Fields, config: &mut ModelConfig) -> Result<(), LoadError> {
    config.qk_norm = true;
    config.qkv_bias = fields.flag_or("attention_bias", false)?;
    config.o_bias = config.qkv_bias;
    qwen2::windows(fields, config)
}

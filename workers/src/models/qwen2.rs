//! Qwen2 and Qwen2.5: Llama with biases on queries, keys and values. Some layers may have a window.

use kernels::rotary::Pairing;

use super::{
    ModelConfig,
    family::{Family, Unsaid},
};
use crate::weights::{Fields, LoadError};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Qwen2ForCausalLM"],
    model_type: "qwen2",
    gguf_names: &["qwen2"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid { max_positions: 32_768, ..Unsaid::LLAMA },
    shape: |fields, config| {
        config.qkv_bias = true;
        windows(fields, config)
    },
};

/// Where windows are used at all, the layers from `max_window_layers` on have them.
pub(super) fn windows(fields: &Fields, config: &mut ModelConfig) -> Result<(), LoadError> {
    if fields.flag_or("use_sliding_window", false)? {
        let first = fields.count_or("max_window_layers", 28)?;
        config.set_windows(fields, |layer| layer >= first)?;
    }
    Ok(())
}

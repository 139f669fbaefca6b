//! Mistral: Llama with a window over the last tokens, on every layer.

use kernels::rotary::Pairing;

use super::family::{Family, Unsaid};

/// The family's line in the table. Its GGUF files call themselves `llama`.
pub(super) const FAMILY: Family = Family {
    architectures: &["MistralForCausalLM"],
    model_type: "mistral",
    gguf_names: &[],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Interleaved,
    unsaid: Unsaid { max_positions: 131_072, ..Unsaid::LLAMA },
    shape: |fields, config| config.set_windows(fields, |_| true),
};

//! ERNIE-4.5, the dense ones: Llama with interleaved rotary pairs and tied embeddings.

use kernels::rotary::Pairing;

use super::{
    ModelConfig,
    family::{Family, Unsaid},
};
use crate::weights::{Fields, LoadError};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"],
    model_type: "ernie4_5",
    gguf_names: &["ernie4_5"],
    pairing: Pairing::Interleaved,
    gguf_pairing: Pairing::Interleaved,
    unsaid: UNSAID,
    shape,
};

/// What ERNIE's files leave unsaid.
pub(super) const UNSAID: Unsaid = Unsaid {
    head_dim: Some(128),
    tied: true,
    rms_norm_eps: 1e-5,
    rope_theta: 500_000.0,
    max_positions: 131_072,
    partial_rotary_factor: 1.0,
};

/// One key says whether all matrices have biases.
pub(super) fn shape(fields: &Fields, config: &mut ModelConfig) -> Result<(), LoadError> {
    config.qkv_bias = fields.flag_or("use_bias", false)?;
    config.o_bias = config.qkv_bias;
    config.mlp_bias = config.qkv_bias;
    Ok(())
}

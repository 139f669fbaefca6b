//! Gemma 3, text only: windows on most layers with frequencies of their own, norms around both branches whose weights
//! are differences from one, scaled embeddings, GELU.

use kernels::{glu::Activation, rotary::Pairing};

use super::{
    BranchNorms, Rope, Scaling,
    family::{Family, Unsaid},
    from_json::scaling,
};
use crate::weights::{Fields, LoadError};

/// The family's line in the table.
pub(super) const FAMILY: Family = Family {
    architectures: &["Gemma3ForCausalLM"],
    model_type: "gemma3_text",
    gguf_names: &["gemma3"],
    pairing: Pairing::Half,
    gguf_pairing: Pairing::Half,
    unsaid: Unsaid {
        head_dim: Some(256),
        tied: true,
        rms_norm_eps: 1e-6,
        rope_theta: 1_000_000.0,
        max_positions: 131_072,
        partial_rotary_factor: 1.0,
    },
    shape: |fields, config| {
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if fields.get(key).is_some() {
                return Err(fields.fault(key, "absent (Gemma 3 caps no logits)"));
            }
        }
        let pattern = fields.count("sliding_window_pattern")?.or(fields.count("_sliding_window_pattern")?);
        let pattern = pattern.unwrap_or(6).max(1);
        config.set_windows(fields, |layer| !(layer + 1).is_multiple_of(pattern))?;
        config.window_rope = Some(window_rope(fields, &config.rope)?);
        let scalar = fields.number("query_pre_attn_scalar")?.unwrap_or(256.0);
        config.attention_scale = (scalar as f32).sqrt().recip();
        config.qkv_bias = fields.flag_or("attention_bias", false)?;
        config.o_bias = config.qkv_bias;
        config.qk_norm = true;
        config.norm_offset = 1.0;
        config.branch_norms = BranchNorms::Gemma;
        config.activation = Activation::GeluTanh;
        config.embedding_scale = (config.hidden_size as f32).sqrt();
        Ok(())
    },
};

/// Layers with a window turn faster, and are not stretched. transformers 5 has settings for each kind of layer.
fn window_rope(fields: &Fields, whole: &Rope) -> Result<Rope, LoadError> {
    let own = match fields.fields("rope_parameters")? {
        Some(parameters) => parameters.fields("sliding_attention")?,
        None => None,
    };
    let theta = own.as_ref().map_or(Ok(None), |own| own.number("rope_theta"))?;
    let theta = theta.or(fields.number("rope_local_base_freq")?).unwrap_or(10_000.0);
    let scaling = own.as_ref().map_or(Ok(Scaling::None), |own| scaling(own, fields))?;
    Ok(Rope { theta, scaling, ..whole.clone() })
}

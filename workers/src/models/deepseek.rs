//! DeepSeek-V2, V3 and R1: multi-head latent attention, and experts in groups beside shared ones.

use kernels::{
    moe::{Groups, Routing, Scoring},
    rotary::Pairing,
};

use super::{
    Latent, ModelConfig, Moe, Scaling, Yarn,
    family::{Family, Unsaid},
    from_json::rope_parameters,
};
use crate::weights::{Fields, LoadError};

/// V3's line in the table: a sigmoid router with a bias for choosing, a group being worth its two best experts.
pub(super) const V3: Family = Family {
    architectures: &["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    gguf_names: &["deepseek2"],
    pairing: Pairing::Interleaved,
    gguf_pairing: Pairing::Interleaved,
    unsaid: Unsaid { max_positions: 4096, ..Unsaid::LLAMA },
    shape: |fields, config| {
        attention(fields, config)?;
        // A GGUF file of V2 has the same name; its router says what it is.
        let scoring = match fields.text("scoring_func")? {
            None | Some("sigmoid") => Scoring::Sigmoid,
            Some("softmax") => Scoring::Softmax,
            Some(_) => return Err(fields.fault("scoring_func", "sigmoid or softmax")),
        };
        experts(fields, config, scoring)
    },
};

/// V2's line: a softmax router without bias, a group being worth its best expert.
pub(super) const V2: Family = Family {
    architectures: &["DeepseekV2ForCausalLM"],
    model_type: "deepseek_v2",
    gguf_names: &[],
    shape: |fields, config| {
        attention(fields, config)?;
        experts(fields, config, Scoring::Softmax)
    },
    ..V3
};

fn attention(fields: &Fields, config: &mut ModelConfig) -> Result<(), LoadError> {
    let latent = Latent {
        q_lora_rank: fields.count("q_lora_rank")?,
        kv_lora_rank: fields.size("kv_lora_rank")?,
        nope_dim: fields.size("qk_nope_head_dim")?,
        rope_dim: fields.size("qk_rope_head_dim")?,
        value_dim: fields.size("v_head_dim")?,
        // Whatever rms_norm_eps says.
        eps: 1e-6,
    };
    if fields.flag_or("attention_bias", false)? {
        return Err(fields.fault("attention_bias", "false for latent attention"));
    }
    if fields.flag("rope_interleave")? == Some(false) {
        config.rope.pairing = Pairing::Half;
    }
    config.head_dim = latent.nope_dim.saturating_add(latent.rope_dim);
    config.kv_heads = config.heads;
    config.rope.dim = latent.rope_dim;
    config.attention_scale = (config.head_dim as f32).sqrt().recip() * stretch(fields, config)?;
    config.latent = Some(latent);
    Ok(())
}

/// Under YaRN, scores grow with the square of what `mscale_all_dim` makes of the factor.
fn stretch(fields: &Fields, config: &ModelConfig) -> Result<f32, LoadError> {
    let all_dim = rope_parameters(fields)?.map_or(Ok(None), |parameters| parameters.number("mscale_all_dim"))?;
    Ok(match (&config.rope.scaling, all_dim) {
        (Scaling::Yarn(yarn), Some(all_dim)) if all_dim != 0.0 => Yarn::growth(yarn.factor, all_dim).powi(2) as f32,
        _ => 1.0,
    })
}

/// The experts that DeepSeek and GLM share.
pub(super) fn experts(fields: &Fields, config: &mut ModelConfig, scoring: Scoring) -> Result<(), LoadError> {
    let Some(experts) = fields.count("n_routed_experts")? else { return Ok(()) };
    let has_bias = scoring == Scoring::Sigmoid;
    let groups = Groups {
        count: fields.count_or("n_group", 1)?,
        kept: fields.count_or("topk_group", 1)?,
        best: if has_bias { experts.checked_div(fields.count_or("n_group", 1)?).unwrap_or(0).min(2) } else { 1 },
    };
    let is_grouped = groups.count > 1 && fields.text("topk_method")? != Some("greedy");
    let width = fields.size("moe_intermediate_size")?;
    let (first, frequency) =
        (fields.count_or("first_k_dense_replace", 0)?, fields.count_or("moe_layer_freq", 1)?.max(1));
    let normalised = fields.flag_or("norm_topk_prob", has_bias)?;
    config.moe = Some(Moe {
        layers: (0..config.windows.len()).map(|layer| layer >= first && layer.is_multiple_of(frequency)).collect(),
        experts,
        width,
        shared_width: width.saturating_mul(fields.count_or("n_shared_experts", 0)?),
        routing: Routing {
            chosen: fields.size("num_experts_per_tok")?,
            scoring,
            groups: is_grouped.then_some(groups),
            normalise: normalised.then_some(1e-20),
            scale: fields.number("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        },
        correction_bias: has_bias,
        bias: false,
        interleaved: false,
    });
    Ok(())
}

//! A model's shape from config.json, as transformers 4 and 5 write it.

use super::{FAMILIES, Family, ModelConfig, Rope, Scaling, rope};
use crate::weights::{Fields, LoadError};

impl ModelConfig {
    /// Reads and checks config.json.
    pub(crate) fn from_json(fields: &Fields) -> Result<Self, LoadError> {
        let family = family(fields)?;
        refuse_unsupported(fields)?;
        let unsaid = &family.unsaid;
        let count = |key| fields.required(key, fields.count(key)?);
        let flag = |key: &str| fields.flag(key).map(|flag| flag.unwrap_or(false));
        let (hidden_size, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        let head_dim = fields.count("head_dim")?.or(unsaid.head_dim);
        let config = Self {
            architecture: family.architecture(),
            vocab_size: count("vocab_size")?,
            hidden_size,
            layers: count("num_hidden_layers")?,
            heads,
            kv_heads: fields.count("num_key_value_heads")?.unwrap_or(heads),
            head_dim: head_dim.unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0)),
            intermediate_size: count("intermediate_size")?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(unsaid.rms_norm_eps) as f32,
            rope: rope(fields, family)?,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(unsaid.tied),
            attention_bias: flag(family.attention_bias_key)?,
            mlp_bias: family.mlp_bias_key.map_or(Ok(false), flag)?,
            qk_norm: family.qk_norm,
            max_positions: fields.count("max_position_embeddings")?.unwrap_or(unsaid.max_positions),
            bos_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_ids: fields.token_ids("eos_token_id")?,
        };
        config.checked(fields.path())
    }
}

fn family(fields: &Fields) -> Result<&'static Family, LoadError> {
    let architecture = match fields.get("architectures").map(|list| (list.get(0), list)) {
        Some((Some(first), _)) => Some(first.as_str().ok_or_else(|| fields.fault("architectures", "a list of names"))?),
        Some((None, list)) if !list.is_array() => return Err(fields.fault("architectures", "a list of names")),
        _ => None,
    };
    let model_type = fields.text("model_type")?;
    let (name, family) = match (architecture, model_type) {
        (Some(name), _) => (name, Family::of_architecture(name)),
        (None, Some(name)) => (name, Family::of_model_type(name)),
        (None, None) => return Err(LoadError::config(fields.path(), "architectures is missing")),
    };
    let known = || FAMILIES.map(Family::architecture).join(", ");
    family.ok_or_else(|| {
        LoadError::config(fields.path(), format!("the architecture {name} is not known; {} are", known()))
    })
}

/// Settings that would change the arithmetic in ways that the families' code does not follow.
fn refuse_unsupported(fields: &Fields) -> Result<(), LoadError> {
    if fields.text("hidden_act")?.is_some_and(|name| name != "silu" && name != "swish") {
        return Err(fields.fault("hidden_act", "silu"));
    }
    if fields.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(fields.fault("partial_rotary_factor", "1 (whole heads turn)"));
    }
    if fields.flag("use_sliding_window")? == Some(true) {
        return Err(fields.fault("use_sliding_window", "false (every layer sees the whole context)"));
    }
    if fields.fields("quantization_config")?.is_some() {
        return Err(fields.fault("quantization_config", "absent (safetensors are read as F32, F16 or BF16)"));
    }
    Ok(())
}

/// transformers 5 keeps all in `rope_parameters`; 4 has `rope_theta` beside `rope_scaling`.
fn rope(fields: &Fields, family: &Family) -> Result<Rope, LoadError> {
    let parameters = match fields.fields("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => fields.fields("rope_scaling")?,
    };
    let own_theta = parameters.as_ref().map_or(Ok(None), |parameters| parameters.number("rope_theta"))?;
    let theta = own_theta.or(fields.number("rope_theta")?).unwrap_or(family.unsaid.rope_theta);
    let scaling = parameters.as_ref().map_or(Ok(Scaling::None), scaling)?;
    Ok(Rope { theta, scaling, pairing: family.pairing })
}

fn scaling(fields: &Fields) -> Result<Scaling, LoadError> {
    let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    let positive = |key: &str| {
        let number = fields.required(key, fields.number(key)?)?;
        if number > 0.0 && number <= 1e9 { Ok(number) } else { Err(fields.fault(key, "a number > 0")) }
    };
    match fields.text(key)? {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: positive("factor")? }),
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(fields.fault("high_freq_factor", "greater than low_freq_factor"));
            }
            let original_positions = positive("original_max_position_embeddings")?;
            Ok(Scaling::Llama3 { factor: positive("factor")?, low_freq_factor, high_freq_factor, original_positions })
        }
        Some(_) => Err(fields.fault(key, &format!("one of {}", rope::KNOWN))),
    }
}

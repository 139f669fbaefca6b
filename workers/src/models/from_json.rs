//! A model's shape from config.json, as transformers 4 and 5 write it.

use kernels::glu::Activation;

use super::{BranchNorms, FAMILIES, Family, ModelConfig, Rope, Scaling, Yarn, rope};
use crate::weights::{Fields, LoadError};

impl ModelConfig {
    /// Reads and checks config.json.
    pub(crate) fn from_json(fields: &Fields) -> Result<Self, LoadError> {
        let family = family(fields)?;
        Self::read(fields, family)?.checked(fields.path())
    }

    /// The shape of a model of `family` with these settings, unchecked.
    pub(super) fn read(fields: &Fields, family: &Family) -> Result<Self, LoadError> {
        let mut config = Self::like_llama(fields, family)?;
        (family.shape)(fields, &mut config)?;
        Ok(config)
    }

    /// What all families say alike.
    fn like_llama(fields: &Fields, family: &Family) -> Result<Self, LoadError> {
        let unsaid = &family.unsaid;
        let (hidden_size, heads, layers) =
            (fields.size("hidden_size")?, fields.size("num_attention_heads")?, fields.size("num_hidden_layers")?);
        let head_dim = fields.count("head_dim")?.or(unsaid.head_dim);
        let head_dim = head_dim.unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
        let rope = rope(fields, family, head_dim)?;
        let config = Self {
            architecture: family.architecture(),
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            layers,
            heads,
            kv_heads: fields.count("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            intermediate_size: fields.size("intermediate_size")?,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(unsaid.rms_norm_eps) as f32,
            norm_offset: 0.0,
            branch_norms: BranchNorms::None,
            max_positions: max_positions(fields, family, &rope)?,
            rope,
            window_rope: None,
            // Refused below where it is absurd, so that nothing is sized by it before that.
            windows: vec![None; layers.min(1 << 10)],
            attention_scale: (head_dim as f32).sqrt().recip(),
            sinks: false,
            qkv_bias: false,
            o_bias: false,
            qk_norm: false,
            latent: None,
            activation: activation(fields)?,
            mlp_bias: false,
            moe: None,
            embedding_scale: 1.0,
            branch_scale: 1.0,
            logit_scale: 1.0,
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(unsaid.tied),
            bos_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_ids: fields.token_ids("eos_token_id")?,
        };
        Ok(config)
    }

    /// Gives layers the settings' window: as `layer_types` says, or else as `by_default`, told a layer's number.
    pub(super) fn set_windows(&mut self, fields: &Fields, by_default: impl Fn(usize) -> bool) -> Result<(), LoadError> {
        let Some(window) = fields.count("sliding_window")? else { return Ok(()) };
        let types = fields.texts("layer_types")?;
        for (layer, own) in self.windows.iter_mut().enumerate() {
            let slides = match types.as_ref().map(|types| types.get(layer).copied()) {
                None => by_default(layer),
                Some(Some("sliding_attention")) => true,
                Some(Some("full_attention")) => false,
                Some(_) => {
                    return Err(fields.fault("layer_types", "sliding_attention or full_attention for each layer"));
                }
            };
            *own = slides.then_some(window);
        }
        Ok(())
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

/// Gemma calls it `hidden_activation`.
fn activation(fields: &Fields) -> Result<Activation, LoadError> {
    let key = if fields.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    match fields.text(key)? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(_) => Err(fields.fault(key, "silu or gelu_pytorch_tanh")),
    }
}

/// What YaRN stretched reaches further than the model's own limit, unless that tells of it already.
fn max_positions(fields: &Fields, family: &Family, rope: &Rope) -> Result<usize, LoadError> {
    let own = fields.count("max_position_embeddings")?.unwrap_or(family.unsaid.max_positions);
    let stretched = match &rope.scaling {
        Scaling::Yarn(yarn) => (yarn.original_positions * yarn.factor) as usize,
        _ => own,
    };
    Ok(own.max(stretched))
}

/// transformers 5 keeps all in `rope_parameters`; 4 has `rope_theta` beside `rope_scaling`.
pub(super) fn rope_parameters(fields: &Fields) -> Result<Option<Fields>, LoadError> {
    match fields.fields("rope_parameters")? {
        // Of models whose kinds of layers turn differently, those of whole attention count here.
        Some(parameters) => Ok(parameters.fields("full_attention")?.or(Some(parameters))),
        None => fields.fields("rope_scaling"),
    }
}

fn rope(fields: &Fields, family: &Family, head_dim: usize) -> Result<Rope, LoadError> {
    let parameters = rope_parameters(fields)?;
    let own = |key: &str| parameters.as_ref().map_or(Ok(None), |parameters| parameters.number(key));
    let theta = own("rope_theta")?.or(fields.number("rope_theta")?).unwrap_or(family.unsaid.rope_theta);
    let share = own("partial_rotary_factor")?.or(fields.number("partial_rotary_factor")?);
    let share = share.unwrap_or(family.unsaid.partial_rotary_factor);
    if !(share > 0.0 && share <= 1.0) {
        return Err(fields.fault("partial_rotary_factor", "a share of the head, more than 0 and at most 1"));
    }
    let scaling = parameters.as_ref().map_or(Ok(Scaling::None), |parameters| scaling(parameters, fields))?;
    Ok(Rope { dim: (head_dim as f64 * share) as usize, theta, scaling, pairing: family.pairing })
}

/// The scaling that `parameters` name; `fields` are the settings around them.
pub(super) fn scaling(parameters: &Fields, fields: &Fields) -> Result<Scaling, LoadError> {
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let positive = |key: &str| positive(parameters, key, None);
    match parameters.text(key)? {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: positive("factor")? }),
        Some("llama3") => {
            let (low_freq_factor, high_freq_factor) = (positive("low_freq_factor")?, positive("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(parameters.fault("high_freq_factor", "greater than low_freq_factor"));
            }
            let original_positions = positive("original_max_position_embeddings")?;
            Ok(Scaling::Llama3 { factor: positive("factor")?, low_freq_factor, high_freq_factor, original_positions })
        }
        Some("yarn") => yarn(parameters, fields).map(Scaling::Yarn),
        Some("longrope" | "su") => longrope(parameters, fields),
        Some(_) => Err(parameters.fault(key, &format!("one of {}", rope::KNOWN))),
    }
}

fn yarn(parameters: &Fields, fields: &Fields) -> Result<Yarn, LoadError> {
    let or = |key: &str, default: f64| positive(parameters, key, Some(default));
    let factor = positive(parameters, "factor", None)?;
    let original_positions = match parameters.get("original_max_position_embeddings") {
        None => positive(fields, "max_position_embeddings", None)?,
        Some(_) => positive(parameters, "original_max_position_embeddings", None)?,
    };
    let (beta_fast, beta_slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(parameters.fault("beta_fast", "at least beta_slow"));
    }
    let mscales = (parameters.number("mscale")?, parameters.number("mscale_all_dim")?);
    let magnitude = match (parameters.number("attention_factor")?, mscales) {
        (Some(factor), _) => factor,
        (None, (Some(mscale), Some(all_dim))) if mscale != 0.0 && all_dim != 0.0 => {
            Yarn::growth(factor, mscale) / Yarn::growth(factor, all_dim)
        }
        _ => Yarn::growth(factor, 1.0),
    };
    if !(magnitude > 0.0 && magnitude <= 1e3) {
        return Err(parameters.fault("attention_factor", "a number > 0"));
    }
    let truncate = parameters.flag("truncate")?.unwrap_or(true);
    Ok(Yarn { factor, original_positions, beta_fast, beta_slow, truncate, magnitude })
}

/// LongRoPE (Ding et al. 2024) has divisors for contexts within the first one, and others beyond. A model that reaches
/// further has the latter at every length, since cached keys can't be turned again.
fn longrope(parameters: &Fields, fields: &Fields) -> Result<Scaling, LoadError> {
    let most = positive(fields, "max_position_embeddings", None)?;
    let original = "original_max_position_embeddings";
    let original = match fields.number(original)? {
        None => positive(parameters, original, Some(most))?,
        Some(_) => positive(fields, original, None)?,
    };
    let key = if most > original { "long_factor" } else { "short_factor" };
    let divisors = parameters.required(key, parameters.numbers(key)?)?;
    if divisors.iter().any(|divisor| *divisor <= 0.0) {
        return Err(parameters.fault(key, "a list of numbers > 0"));
    }
    let stretch = most / original;
    let usual = if stretch > 1.0 { (1.0 + stretch.ln() / original.ln()).sqrt() } else { 1.0 };
    let magnitude = positive(parameters, "attention_factor", Some(usual))?;
    Ok(Scaling::Divisors { divisors: divisors.into_iter().map(|divisor| divisor as f32).collect(), magnitude })
}

fn positive(fields: &Fields, key: &str, default: Option<f64>) -> Result<f64, LoadError> {
    match fields.number(key)?.or(default) {
        None => fields.required(key, None),
        Some(number) if number > 0.0 && number <= 1e9 => Ok(number),
        Some(_) => Err(fields.fault(key, "a number > 0")),
    }
}

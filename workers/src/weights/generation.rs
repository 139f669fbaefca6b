//! What a model's makers recommend for sampling, and which tokens end its text.

use std::path::Path;

use super::{Fields, LoadError, Metadata};

/// Defaults that a request's own parameters override; `None` where the makers are silent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Nucleus mass, `0..=1`.
    pub top_p: Option<f32>,
    /// Most likely tokens kept; 0 is off.
    pub top_k: Option<u32>,
    /// Smallest probability relative to the likeliest token, `0..=1`.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens already seen; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a text, without repeats.
    pub eos_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` if the folder has one. `eos_ids` are those of config.json, for when it is silent.
    pub(crate) fn from_folder(folder: &Path, eos_ids: &[u32]) -> Result<Self, LoadError> {
        let path = folder.join("generation_config.json");
        if !path.exists() {
            return Ok(Self { eos_ids: eos_ids.to_vec(), ..Self::default() });
        }
        let fields = Fields::open(&path)?;
        let own_ids = fields.token_ids("eos_token_id")?;
        Ok(Self {
            temperature: bounded(&fields, "temperature", 0.0, f64::from(f32::MAX))?,
            top_p: bounded(&fields, "top_p", 0.0, 1.0)?,
            top_k: top_k(&fields)?,
            min_p: bounded(&fields, "min_p", 0.0, 1.0)?,
            repetition_penalty: bounded(&fields, "repetition_penalty", f64::from(f32::MIN_POSITIVE), 1e6)?,
            eos_ids: if own_ids.is_empty() { eos_ids.to_vec() } else { distinct(own_ids) },
        })
    }

    /// A GGUF file names up to three tokens that end a text: of the text, of a turn, of a message.
    pub(crate) fn from_gguf(metadata: &Metadata) -> Self {
        let keys = ["eos_token_id", "eot_token_id", "eom_token_id"];
        let id = |key| metadata.unsigned(&format!("tokenizer.ggml.{key}")).and_then(|id| u32::try_from(id).ok());
        Self { eos_ids: distinct(keys.into_iter().filter_map(id).collect()), ..Self::default() }
    }
}

fn bounded(fields: &Fields, key: &str, low: f64, high: f64) -> Result<Option<f32>, LoadError> {
    match fields.number(key)? {
        Some(value) if !(low..=high).contains(&value) => {
            Err(fields.fault(key, &format!("a number between {low:?} and {high:?}")))
        }
        value => Ok(value.map(|value| value as f32)),
    }
}

/// Both 0 and -1 are written for "off".
fn top_k(fields: &Fields) -> Result<Option<u32>, LoadError> {
    if fields.number("top_k")? == Some(-1.0) {
        return Ok(Some(0));
    }
    let count = fields.count("top_k")?;
    Ok(count.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
}

fn distinct(ids: Vec<u32>) -> Vec<u32> {
    let mut seen = Vec::new();
    for id in ids {
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    seen
}

//! The model, as its clients see it.

use workers::{link::sampling::Sampling, weights::GenerationConfig};

use super::{error::ApiError, fields::Fields};
use crate::{
    guides::Guides,
    text::{ReasoningFormat, TextModel, ToolFormat},
};

/// What requests are checked against and completed by.
#[derive(Debug)]
pub struct ServedModel {
    /// Its name in answers.
    pub name: String,
    /// Where it was loaded from.
    pub root: String,
    /// Whether requests must call it by its name.
    pub checks_name: bool,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
    /// Longest sequence, tokens.
    pub max_model_len: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// How many numbers an embedding has.
    pub hidden_size: usize,
    /// Tokens that end a text.
    pub eos_ids: Vec<u32>,
    /// What its makers recommend, where a request is silent.
    pub sampling_defaults: Sampling,
    /// `--default-max-tokens`.
    pub default_max_tokens: Option<u32>,
    /// Whether requests may bring a chat template.
    pub trusts_templates: bool,
    /// Whether requests may ask for log-probabilities.
    pub logprobs_enabled: bool,
    /// And with how many alternatives at most.
    pub logprobs_max: u32,
    /// How it marks its reasoning, where that is to be told apart.
    pub reasoning: Option<&'static ReasoningFormat>,
    /// How it writes tool calls, where these are to be found.
    pub tool_format: Option<&'static ToolFormat>,
    /// Its tokenizer and chat template.
    pub text: TextModel,
    /// Who compiles grammars for it.
    pub guides: Guides,
}

impl ServedModel {
    /// Accepts requests for this model: its name, no name, `default`; while it wasn't given a name, any.
    pub fn check_name(&self, fields: &Fields) -> Result<(), ApiError> {
        match fields.get::<String>("model")? {
            Some(asked) if self.checks_name && asked != self.name && asked != "default" => {
                Err(ApiError::unknown_model(&asked, &self.name))
            }
            _ => Ok(()),
        }
    }

    /// The makers' advice over the neutral values.
    pub fn sampling_defaults(advice: &GenerationConfig) -> Sampling {
        let neutral = Sampling::default();
        Sampling {
            temperature: advice.temperature.unwrap_or(neutral.temperature),
            top_p: advice.top_p.unwrap_or(neutral.top_p),
            top_k: advice.top_k.unwrap_or(neutral.top_k),
            min_p: advice.min_p.unwrap_or(neutral.min_p),
            repetition_penalty: advice.repetition_penalty.unwrap_or(neutral.repetition_penalty),
            ..neutral
        }
    }
}

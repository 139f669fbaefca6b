//! The parameters that chats and completions have in common: read, bounded, and completed by the model's defaults.

use workers::link::sampling::{LOGPROBS_MAX, SEED_MAX, STOP_TOKENS_MAX, Sampling};

use super::{error::ApiError, fields::Fields, model::ServedModel};

/// Most sequences for one prompt.
const N_MAX: i64 = 128;
/// Most stop strings.
const STOP_STRINGS_MAX: usize = 16;

/// What a client wants of a generation.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Answer in pieces, and how; `None`: as a whole.
    pub stream: Option<StreamOptions>,
    /// How tokens are chosen, the same for every sequence but for the seed.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` leaves it to the endpoint.
    pub max_tokens: Option<u32>,
    /// Sequences for each prompt.
    pub n: u32,
    /// Texts that end a sequence.
    pub stop_strings: Vec<String>,
    /// Whether they and stop tokens show in the text.
    pub include_stop: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Whether token ids are wanted beside the text.
    pub return_token_ids: bool,
    /// The client's word for the end user, part of the answer's id.
    pub user: Option<String>,
    /// The client's own id for the request.
    pub request_id: Option<String>,
}

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The parameter that it came from.
    pub param: &'static str,
    /// Its tokens, at least one.
    pub ids: Vec<u32>,
    /// Its text, where the answer repeats it.
    pub echo: Option<String>,
}

impl Prompt {
    /// A prompt that the model can be given: it has tokens, and the model knows them all. A tokenizer may know more, such
    /// as special tokens that were added later, or it belongs to another model.
    pub fn new(
        param: &'static str,
        ids: Vec<u32>,
        echo: Option<String>,
        model: &ServedModel,
    ) -> Result<Self, ApiError> {
        if ids.is_empty() {
            return Err(ApiError::invalid(param, "the prompt has no tokens"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= model.vocabulary) {
            let text = model.text.tokenizer.token_text(*id).unwrap_or_default();
            let known = model.vocabulary;
            let message =
                format!("the tokenizer makes token {id} ({text:?}) of it, but the model has {known} tokens only");
            return Err(ApiError::invalid(param, message));
        }
        Ok(Self { param, ids, echo })
    }
}

/// How a stream reports usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk tells it.
    pub include_usage: bool,
    /// Every chunk tells it.
    pub continuous_usage: bool,
}

impl Generation {
    /// Reads them. `logprobs` is read by the endpoint, whose form of it differs.
    pub fn read(fields: &Fields, model: &ServedModel, logprobs: Option<u32>) -> Result<Self, ApiError> {
        model.check_name(fields)?;
        refuse_what_is_not_supported(fields)?;
        let max_tokens = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
        let max_tokens = max_tokens.or(fields.integer("max_tokens", 1..=i64::MAX)?);
        let generation = Self {
            stream: stream(fields)?,
            sampling: sampling(fields, model, logprobs)?,
            max_tokens: max_tokens.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
            n: fields.integer("n", 1..=N_MAX)?.unwrap_or(1) as u32,
            stop_strings: stop_strings(fields)?,
            include_stop: fields.flag("include_stop_str_in_output")?,
            skip_special_tokens: fields.get("skip_special_tokens")?.unwrap_or(true),
            return_token_ids: fields.flag("return_token_ids")?,
            user: fields.get("user")?,
            request_id: fields.get("request_id")?,
        };
        generation.check_min_tokens()?;
        Ok(generation)
    }

    fn check_min_tokens(&self) -> Result<(), ApiError> {
        let least = self.sampling.min_tokens;
        match self.max_tokens {
            Some(most) if least > most => Err(ApiError::invalid(
                "min_tokens",
                format!("`min_tokens` ({least}) is more than `max_tokens` ({most})"),
            )),
            _ => Ok(()),
        }
    }

    /// The most tokens that a prompt of this length may be continued by: what was asked for (or `default`, or all there
    /// is room for), cut to the context. Refuses prompts without room for what is wanted at least.
    pub fn max_tokens_after(
        &self,
        prompt: &Prompt,
        default: Option<u32>,
        model: &ServedModel,
    ) -> Result<u32, ApiError> {
        let (context, least) = (model.max_model_len, self.sampling.min_tokens as usize);
        let Prompt { param, ref ids, .. } = *prompt;
        let prompt = ids.len();
        if prompt >= context {
            let message = format!(
                "the prompt has {prompt} tokens; together with one more token it exceeds the context of {context}"
            );
            return Err(ApiError::too_long(param, message));
        }
        if prompt + least >= context && least > 0 {
            let message =
                format!("the prompt ({prompt} tokens) and `min_tokens` ({least}) exceed the context of {context}");
            return Err(ApiError::too_long(param, message));
        }
        let room = (context - prompt) as u32;
        let wanted =
            self.max_tokens.or(model.default_max_tokens).or(default.map(|most| most.max(self.sampling.min_tokens)));
        Ok(wanted.unwrap_or(room).min(room))
    }
}

fn stream(fields: &Fields) -> Result<Option<StreamOptions>, ApiError> {
    let options: Option<serde_json::Map<_, _>> = fields.get("stream_options")?;
    if !fields.flag("stream")? {
        return match options {
            Some(options) if !options.is_empty() => {
                Err(ApiError::invalid("stream_options", "`stream_options` needs `stream: true`"))
            }
            _ => Ok(None),
        };
    }
    let given = options.is_some();
    let inner = Fields::of(options.unwrap_or_default());
    Ok(Some(StreamOptions {
        include_usage: inner.get("include_usage")?.unwrap_or(given),
        continuous_usage: inner.flag("continuous_usage_stats")?,
    }))
}

fn sampling(fields: &Fields, model: &ServedModel, logprobs: Option<u32>) -> Result<Sampling, ApiError> {
    let defaults = &model.sampling_defaults;
    let number = |name, default: f32| fields.number(name).map(|number| number.unwrap_or(default));
    let top_k = fields.integer("top_k", -1..=i64::MAX)?;
    let min_tokens = fields.integer("min_tokens", 0..=i64::from(u32::MAX))?;
    let seed = fields.integer("seed", 0..=SEED_MAX as i64)?;
    let sampling = Sampling {
        temperature: number("temperature", defaults.temperature)?,
        top_p: number("top_p", defaults.top_p)?,
        top_k: top_k.map_or(defaults.top_k, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX)),
        min_p: number("min_p", defaults.min_p)?,
        repetition_penalty: number("repetition_penalty", defaults.repetition_penalty)?,
        presence_penalty: number("presence_penalty", defaults.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", defaults.frequency_penalty)?,
        seed: seed.map_or_else(|| rand::random_range(0..=SEED_MAX), |seed| seed as u64),
        min_tokens: min_tokens.unwrap_or(0) as u32,
        stop_token_ids: stop_tokens(fields, model)?,
        logprobs: allowed_logprobs(logprobs, model)?,
        ..Sampling::default()
    };
    sampling.check().map_err(|error| ApiError::invalid(error.parameter, error.to_string()))?;
    check_that_tokens_are_left(&sampling, model)?;
    Ok(sampling)
}

/// Until `min_tokens` is reached no stop token may be chosen. If all tokens are stop tokens, none may: no rank must ever
/// see that, it could only give up, and with it everybody's requests.
fn check_that_tokens_are_left(sampling: &Sampling, model: &ServedModel) -> Result<(), ApiError> {
    let known = |id: &&u32| (**id as usize) < model.vocabulary;
    if sampling.min_tokens > 0 && sampling.stop_token_ids.iter().filter(known).count() >= model.vocabulary {
        let message = "`stop_token_ids` are all tokens of the vocabulary: none is left for `min_tokens`";
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(())
}

/// The client's own, and the model's ends of sequence unless they are to be ignored.
fn stop_tokens(fields: &Fields, model: &ServedModel) -> Result<Vec<u32>, ApiError> {
    let mut ids = fields.token_ids("stop_token_ids", model.vocabulary)?.unwrap_or_default();
    if ids.len() > STOP_TOKENS_MAX {
        return Err(ApiError::invalid("stop_token_ids", format!("at most {STOP_TOKENS_MAX} stop tokens can be given")));
    }
    if !fields.flag("ignore_eos")? {
        ids.extend(&model.eos_ids);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn allowed_logprobs(logprobs: Option<u32>, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    if logprobs.is_some() && !model.logprobs_enabled {
        let message = "log-probabilities are off; the server must be started with --enable-logprob";
        return Err(ApiError::invalid("logprobs", message));
    }
    Ok(logprobs)
}

/// The bound that both forms of `logprobs` share.
pub fn logprobs_count(fields: &Fields, name: &str) -> Result<Option<u32>, ApiError> {
    let count = fields.integer(name, 0..=i64::from(LOGPROBS_MAX))?;
    Ok(count.map(|count| count as u32))
}

fn stop_strings(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let strings: Vec<String> = match fields.raw("stop") {
        Some(serde_json::Value::String(one)) => vec![one.clone()],
        _ => fields.get("stop")?.unwrap_or_default(),
    };
    if strings.len() > STOP_STRINGS_MAX {
        return Err(ApiError::invalid("stop", format!("at most {STOP_STRINGS_MAX} stop strings can be given")));
    }
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "a stop string must not be empty"));
    }
    Ok(strings)
}

/// Parameters of features that aren't there yet, whose silent absence would give a wrong answer.
fn refuse_what_is_not_supported(fields: &Fields) -> Result<(), ApiError> {
    for name in
        ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag", "structured_outputs"]
    {
        if fields.raw(name).is_some() {
            return Err(ApiError::unsupported(name, "guided decoding"));
        }
    }
    if let Some(format) = fields.raw("response_format")
        && format.get("type").and_then(|kind| kind.as_str()) != Some("text")
    {
        return Err(ApiError::unsupported("response_format", "any `response_format` but {\"type\": \"text\"}"));
    }
    for name in ["bad_words", "bad_words_token_ids"] {
        if fields.raw(name).is_some_and(|value| *value != serde_json::json!([])) {
            return Err(ApiError::unsupported(name, &format!("`{name}`")));
        }
    }
    match fields.raw("prompt_logprobs") {
        Some(_) => Err(ApiError::unsupported("prompt_logprobs", "`prompt_logprobs`")),
        None => Ok(()),
    }
}

//! The parameters that chats and completions have in common: read, bounded, and completed by the model's defaults.

use workers::link::sampling::Sampling;

use super::{error::ApiError, fields::Fields, logprobs::TokenNames, model::ServedModel, sampling, structured};
use crate::{
    engine::guide::SharedGuide,
    guides::{Compiled, Grammar, Thinking},
    text::MessageFormat,
};

/// Most sequences for one prompt.
pub const N_MAX: i64 = 128;
/// Most stop strings.
const STOP_STRINGS_MAX: usize = 16;
/// Longest cache salt, bytes.
const CACHE_SALT_BYTES_MAX: usize = 1024;

/// What a client wants of a generation.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Answer in pieces, and how; `None`: as a whole.
    pub stream: Option<StreamOptions>,
    /// How tokens are chosen, the same for every sequence but for the seed.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` leaves it to the endpoint.
    pub max_tokens: Option<u32>,
    /// Sequences told of each prompt.
    pub n: u32,
    /// Sequences generated for each prompt, of which the `n` best are told. At least `n`.
    pub candidates: u32,
    /// The prompt is only told and scored: the one token that follows it is left out.
    pub scores_only: bool,
    /// Log-probabilities of the prompt's tokens, with so many alternatives, told in vLLM's form.
    pub prompt_logprobs: Option<u32>,
    /// The same, told with those of the completion.
    pub echo_logprobs: Option<u32>,
    /// Most tokens of reasoning; the rest of `max_tokens` is for the answer.
    pub reasoning_max_tokens: Option<u32>,
    /// How the text becomes a message; completions leave it as it is.
    pub message: MessageFormat,
    /// The form that the answer is to have.
    pub form: Option<Compiled>,
    /// How reasoning before it is followed, where that is needed.
    pub thinking: Option<Thinking>,
    /// Texts that end a sequence.
    pub stop_strings: Vec<String>,
    /// Whether they and stop tokens show in the text.
    pub include_stop: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Whether token ids are wanted beside the text.
    pub return_token_ids: bool,
    /// Whether log-probabilities name tokens by their ids.
    pub tokens_as_ids: bool,
    /// Smaller goes first.
    pub priority: i64,
    /// Cached prefixes are shared with requests of the same salt only.
    pub cache_salt: Option<String>,
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

    /// The same, cut to its last tokens where `truncate_prompt_tokens` (vLLM's) says so: to that many, or at -1 to as
    /// many as leave room for one more.
    pub fn cut(mut self, fields: &Fields, model: &ServedModel) -> Result<Self, ApiError> {
        const NAME: &str = "truncate_prompt_tokens";
        let most = match fields.integer(NAME, -1..=i64::MAX)? {
            None => return Ok(self),
            Some(-1) => model.max_model_len - 1,
            Some(0) => {
                return Err(ApiError::invalid(
                    NAME,
                    format!("`{NAME}` must leave a token; -1 leaves all there is room for"),
                ));
            }
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
        };
        if self.ids.len() > most {
            self.ids.drain(..self.ids.len() - most);
            self.echo = self.echo.map(|_| model.text.tokenizer.decode(&self.ids, false));
        }
        Ok(self)
    }
}

/// How a stream reports usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// A last chunk tells it.
    pub include_usage: bool,
    /// Every chunk tells it.
    pub continuous_usage: bool,
    /// Tokens of a sequence in one chunk, at least one.
    pub chunk_tokens: usize,
}

impl Generation {
    /// Reads them. `logprobs` is read by the endpoint, whose form of it differs.
    pub fn read(fields: &Fields, model: &ServedModel, logprobs: Option<u32>) -> Result<Self, ApiError> {
        model.check_name(fields)?;
        let max_tokens = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
        let max_tokens = max_tokens.or(fields.integer("max_tokens", 1..=i64::MAX)?);
        let max_tokens = max_tokens.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
        let n = fields.integer("n", 1..=N_MAX)?.unwrap_or(1) as u32;
        if logprobs.is_some() {
            check_logprobs_are_enabled("logprobs", model)?;
        }
        let mut generation = Self {
            stream: stream(fields)?,
            sampling: sampling::read(fields, model, logprobs)?,
            max_tokens,
            n,
            candidates: n,
            scores_only: false,
            prompt_logprobs: prompt_logprobs(fields, model)?,
            echo_logprobs: None,
            reasoning_max_tokens: reasoning_max_tokens(fields, max_tokens)?,
            message: MessageFormat::default(),
            form: structured::read(fields, model)?,
            thinking: None,
            stop_strings: stop_strings(fields)?,
            include_stop: fields.flag("include_stop_str_in_output")?,
            skip_special_tokens: fields.get("skip_special_tokens")?.unwrap_or(true),
            return_token_ids: fields.flag("return_token_ids")?,
            tokens_as_ids: !fields.get("include_logprobs_decode_token")?.unwrap_or(true)
                || fields.flag("return_tokens_as_token_ids")?,
            priority: fields.integer("priority", i64::MIN..=i64::MAX)?.unwrap_or(0),
            cache_salt: cache_salt(fields)?,
            user: fields.get("user")?,
            request_id: fields.get("request_id")?,
        };
        generation.check_min_tokens()?;
        generation.end_with_the_form(model);
        Ok(generation)
    }

    /// Who says which tokens may come, for one more sequence; none: all may.
    pub fn guide(&self) -> Option<SharedGuide> {
        match (&self.thinking, &self.form) {
            (Some(thinking), form) => Some(SharedGuide::new(thinking.guide(form.as_ref()))),
            (None, Some(form)) => Some(SharedGuide::new(form.guide())),
            (None, None) => None,
        }
    }

    /// Makes `grammar` the form of the answer, in the place of what the client asked for; `param` is whose fault it is.
    pub fn force(&mut self, param: &str, grammar: &Grammar, model: &ServedModel) -> Result<(), ApiError> {
        self.form = Some(structured::compile(param, grammar, model)?);
        self.end_with_the_form(model);
        Ok(())
    }

    /// The end of a form is told by an end of sequence alone, even to who wants to ignore them.
    fn end_with_the_form(&mut self, model: &ServedModel) {
        let stops = &mut self.sampling.stop_token_ids;
        if self.form.is_some() {
            stops.extend(&model.eos_ids);
            stops.sort_unstable();
            stops.dedup();
        }
    }

    /// With how many alternatives the prompt is to be scored, if at all.
    pub fn scored_alternatives(&self) -> Option<u32> {
        self.prompt_logprobs.max(self.echo_logprobs)
    }

    /// How tokens are named beside their log-probabilities.
    pub fn token_names(&self, model: &ServedModel) -> TokenNames {
        TokenNames::new(model.text.tokenizer.clone(), self.tokens_as_ids)
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
    // What is below one is one, as the reference has it.
    let chunk_tokens = fields.integer("max_streaming_response_tokens", i64::MIN..=i64::MAX)?.unwrap_or(1).max(1);
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
        chunk_tokens: usize::try_from(chunk_tokens).unwrap_or(usize::MAX),
        include_usage: inner.get("include_usage")?.unwrap_or(given),
        continuous_usage: inner.flag("continuous_usage_stats")?,
    }))
}

fn check_logprobs_are_enabled(param: &str, model: &ServedModel) -> Result<(), ApiError> {
    if model.logprobs_enabled {
        return Ok(());
    }
    Err(ApiError::invalid(param, "log-probabilities are off; the server must be started with --enable-logprob"))
}

/// The bound that both forms of `logprobs` share.
pub fn logprobs_count(fields: &Fields, name: &str, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    let count = fields.integer(name, 0..=i64::from(model.logprobs_max))?;
    Ok(count.map(|count| count as u32))
}

fn prompt_logprobs(fields: &Fields, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    let count = logprobs_count(fields, "prompt_logprobs", model)?;
    if count.is_some() {
        check_logprobs_are_enabled("prompt_logprobs", model)?;
    }
    Ok(count)
}

/// More than all tokens together is as many as them.
fn reasoning_max_tokens(fields: &Fields, max_tokens: Option<u32>) -> Result<Option<u32>, ApiError> {
    let most = fields.integer("reasoning_max_tokens", 0..=i64::MAX)?;
    let most = most.map(|most| u32::try_from(most).unwrap_or(u32::MAX));
    Ok(most.map(|most| most.min(max_tokens.unwrap_or(u32::MAX))))
}

fn cache_salt(fields: &Fields) -> Result<Option<String>, ApiError> {
    let salt: Option<String> = fields.get("cache_salt")?;
    match &salt {
        Some(salt) if salt.is_empty() || salt.len() > CACHE_SALT_BYTES_MAX => {
            let message = format!("`cache_salt` must have 1 to {CACHE_SALT_BYTES_MAX} bytes, got {}", salt.len());
            Err(ApiError::invalid("cache_salt", message))
        }
        _ => Ok(salt),
    }
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

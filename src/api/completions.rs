//! `POST /v1/completions`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Collected, Head, Wording},
    choice::{FinishReason, Piece},
    error::ApiError,
    fields::{Fields, token_ids},
    generation::{Generation, Prompt, logprobs_count},
    logprobs::{self, CompletionLogprobs},
    request_id,
};

/// Completion length where nothing is said.
const MAX_TOKENS_DEFAULT: u32 = 16;
/// Most sequences of one request: prompts times `n`.
const SEQUENCES_MAX: usize = 1024;

/// Answers one request with one or many prompts.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    api.generate(&request, body, prepare).await
}

/// A request that was understood: what is wanted, of which prompts, and how it will be answered.
pub fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<super::Prepared<Completion>, ApiError> {
    let fields = Fields::read(body)?;
    let generation = Generation::read(&fields, &api.model, logprobs_count(&fields, "logprobs", &api.model)?)?;
    let prompts = prompts(api, &fields, generation.n as usize)?;
    let with_limit = |prompt: Prompt| {
        let max_tokens = generation.max_tokens_after(&prompt, Some(MAX_TOKENS_DEFAULT), &api.model)?;
        Ok((prompt, max_tokens))
    };
    let prompts = prompts.into_iter().map(with_limit).collect::<Result<Vec<_>, ApiError>>()?;
    let id = request_id::make("cmpl-", generation.request_id.as_deref(), generation.user.as_deref());
    let echoes = prompts.iter().map(|(prompt, _)| prompt.echo.clone().unwrap_or_default()).collect();
    let ids = generation.return_token_ids.then(|| prompts.iter().map(|(prompt, _)| prompt.ids.clone()).collect());
    let offsets = vec![0; prompts.len() * generation.n as usize];
    let (n, created) = (generation.n as usize, request_id::now());
    let wording = Completion { api: api.clone(), id: id.clone(), created, n, echoes, prompt_token_ids: ids, offsets };
    Ok(super::Prepared { id, generation, prompts, wording })
}

fn prompts(api: &Api, fields: &Fields, n: usize) -> Result<Vec<Prompt>, ApiError> {
    refuse_what_is_not_supported(fields)?;
    let (param, given) = match (fields.raw("prompt_token_ids"), fields.raw("prompt")) {
        (Some(ids), _) => ("prompt_token_ids", ids),
        (None, Some(prompt)) => ("prompt", prompt),
        (None, None) => return Err(ApiError::missing("prompt")),
    };
    let items = separate(given);
    if items.is_empty() {
        return Err(ApiError::invalid(param, format!("`{param}` is empty")));
    }
    if items.len() * n > SEQUENCES_MAX {
        return Err(ApiError::invalid(param, format!("at most {SEQUENCES_MAX} completions can be asked for at once")));
    }
    check_kinds(param, &items)?;
    let echo = fields.flag("echo")?;
    items.into_iter().map(|item| prompt(api, param, item, echo)).collect()
}

/// A prompt is a string or a list of ids; a list of such is several.
fn separate(given: &Value) -> Vec<&Value> {
    match given {
        Value::Array(list) if list.first().is_some_and(|first| first.is_number()) => vec![given],
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

fn check_kinds(param: &str, items: &[&Value]) -> Result<(), ApiError> {
    let all = |kind: fn(&Value) -> bool| items.iter().all(|item| kind(item));
    if all(Value::is_array) || (all(Value::is_string) && param == "prompt") {
        return Ok(());
    }
    Err(ApiError::invalid(
        param,
        format!("`{param}` must be a string, a list of strings, a list of token ids or a list of such lists"),
    ))
}

fn prompt(api: &Api, param: &'static str, item: &Value, echo: bool) -> Result<Prompt, ApiError> {
    let text = &api.model.text;
    let (ids, own_text) = match item.as_str() {
        Some(own) => {
            (text.completion_prompt(own).map_err(|error| ApiError::from(error).about(param))?, Some(own.to_owned()))
        }
        None => (token_ids(param, item, api.model.vocabulary)?, None),
    };
    let echo = echo.then(|| own_text.unwrap_or_else(|| text.tokenizer.decode(&ids, false)));
    Prompt::new(param, ids, echo, &api.model)
}

fn refuse_what_is_not_supported(fields: &Fields) -> Result<(), ApiError> {
    if fields.flag("echo")? && fields.raw("logprobs").is_some() {
        return Err(ApiError::unsupported("echo", "`echo` together with `logprobs`"));
    }
    match fields.raw("suffix") {
        Some(Value::String(suffix)) if !suffix.is_empty() => Err(ApiError::unsupported("suffix", "`suffix`")),
        _ => Ok(()),
    }
}

/// How a completion is answered.
pub struct Completion {
    api: Arc<Api>,
    id: String,
    created: u64,
    /// Sequences of each prompt.
    n: usize,
    /// What stands before each prompt's completions.
    echoes: Vec<String>,
    /// Where they are wanted: each prompt's.
    prompt_token_ids: Option<Vec<Vec<u32>>>,
    /// Of each sequence, where the next token's text begins.
    offsets: Vec<usize>,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
    prompt_token_ids: Option<Vec<u32>>,
    completion_token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_token_ids: Option<[u32; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<[u32; 1]>,
}

impl Completion {
    fn prompt_token_ids(&self, index: usize) -> Option<Vec<u32>> {
        self.prompt_token_ids.as_ref().map(|all| all[index / self.n].clone())
    }
}

impl Wording for Completion {
    fn head(&self, _streamed: bool) -> Head {
        let Self { id, created, .. } = self;
        Head { id: id.clone(), object: "text_completion", created: *created, model: self.api.model.name.clone() }
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let (text, prompt_token_ids) = (self.echoes[index / self.n].clone(), self.prompt_token_ids(index));
        if text.is_empty() && prompt_token_ids.is_none() {
            return None;
        }
        let (logprobs, finish_reason, arrival_time) = (None, None, None);
        let (completion_token_ids, token_ids) = (None, None);
        Some(json!(ChunkChoice {
            index,
            text,
            logprobs,
            finish_reason,
            arrival_time,
            prompt_token_ids,
            completion_token_ids,
            token_ids
        }))
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Value {
        let ids = self.prompt_token_ids.is_some().then_some([piece.token]);
        let pieces = std::slice::from_ref(piece);
        json!(ChunkChoice {
            index,
            text: piece.text.clone(),
            logprobs: logprobs::of_completion(pieces, &self.api.model.text.tokenizer, &mut self.offsets[index]),
            finish_reason: piece.finish,
            arrival_time: Some(piece.arrival_time),
            prompt_token_ids: None,
            completion_token_ids: ids,
            token_ids: ids,
        })
    }

    fn whole(&mut self, index: usize, collected: Collected) -> Value {
        let Collected { text, pieces, finish } = collected;
        let prompt_token_ids = self.prompt_token_ids(index);
        let completion_token_ids = prompt_token_ids.is_some().then(|| pieces.iter().map(|piece| piece.token).collect());
        let logprobs = logprobs::of_completion(&pieces, &self.api.model.text.tokenizer, &mut self.offsets[index]);
        let text = self.echoes[index / self.n].clone() + &text;
        json!(WholeChoice { index, text, logprobs, finish_reason: finish, prompt_token_ids, completion_token_ids })
    }
}

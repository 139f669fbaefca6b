//! `POST /v1/completions`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::{
    Api,
    answer::{Collected, Head, Wording},
    best_of,
    choice::{FinishReason, Piece},
    error::ApiError,
    fields::{Fields, separate, token_ids},
    generation::{Generation, N_MAX, Prompt, logprobs_count},
    logprobs::{self, CompletionLogprobs, TokenNames},
    openapi::requests::CompletionRequest,
    prompt_scores::PromptScores,
    request_id,
};

/// Completion length where nothing is said.
const MAX_TOKENS_DEFAULT: u32 = 16;
/// Most sequences of one request: prompts times `best_of`, or `n` where that is absent.
const SEQUENCES_MAX: usize = 1024;

/// Answers one request with one or many prompts.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    api.generate(&request, body, prepare).await
}

/// A request that was understood: what is wanted, of which prompts, and how it will be answered.
pub fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<super::Prepared<Completion>, ApiError> {
    let mut fields = Fields::read(body)?.described_by::<CompletionRequest>();
    suffix(&mut fields)?;
    let scores_only = only_scores(&mut fields)?;
    let logprobs = logprobs_count(&fields, "logprobs", &api.model)?;
    let mut generation = Generation::read(&fields, &api.model, logprobs)?;
    generation.scores_only = scores_only;
    generation.echo_logprobs = logprobs.filter(|_| fields.flag("echo") == Ok(true));
    best_of(&fields, &mut generation)?;
    let prompts = prompts(api, &fields, generation.candidates as usize)?;
    let with_limit = |prompt: Prompt| {
        let max_tokens = generation.max_tokens_after(&prompt, Some(MAX_TOKENS_DEFAULT), &api.model)?;
        Ok((prompt, max_tokens))
    };
    let prompts = prompts.into_iter().map(with_limit).collect::<Result<Vec<_>, ApiError>>()?;
    let wording = Completion::new(api.clone(), &generation, &prompts, logprobs);
    Ok(super::Prepared { id: wording.id.clone(), generation, prompts, wording })
}

/// OpenAI's `suffix`, a text that follows what is to be filled in, needs a model that was made for it. FastDeploy's is an
/// object with further fields, which count where the body itself is silent.
fn suffix(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.raw("suffix") {
        None => Ok(()),
        Some(Value::Object(_)) => fields.fall_back_on("suffix"),
        Some(Value::String(suffix)) if suffix.is_empty() => Ok(()),
        Some(Value::String(_)) => Err(ApiError::unsupported("suffix", "filling in before a `suffix`")),
        Some(_) => Err(ApiError::invalid("suffix", "`suffix` must be a string, or an object with further fields")),
    }
}

/// OpenAI allows `max_tokens: 0` beside `echo`: the prompt is told back, perhaps with log-probabilities. The ranks make
/// one token of every prompt; here it is asked for, and left out of the answer.
fn only_scores(fields: &mut Fields) -> Result<bool, ApiError> {
    let name = if fields.raw("max_completion_tokens").is_some() { "max_completion_tokens" } else { "max_tokens" };
    let none = fields.flag("echo")? && fields.raw(name).is_some_and(|most| most.as_f64() == Some(0.0));
    if none {
        fields.set(name, 1.into());
    }
    Ok(none)
}

/// To find the best of several sequences, log-probabilities are needed, whether they are told or not.
fn best_of(fields: &Fields, generation: &mut Generation) -> Result<(), ApiError> {
    let Some(candidates) = fields.integer("best_of", 1..=N_MAX)? else { return Ok(()) };
    let (n, candidates) = (generation.n, candidates as u32);
    if candidates < n {
        let message = format!("`best_of` ({candidates}) is less than `n` ({n})");
        return Err(ApiError::invalid("best_of", message));
    }
    if candidates > n && generation.stream.is_some() {
        let message = "`best_of` above `n` can't be streamed: which are the best is known at the end";
        return Err(ApiError::invalid("best_of", message));
    }
    generation.candidates = candidates;
    if candidates > n {
        generation.sampling.logprobs.get_or_insert(0);
    }
    Ok(())
}

fn prompts(api: &Api, fields: &Fields, candidates: usize) -> Result<Vec<Prompt>, ApiError> {
    let (param, given) = match (fields.raw("prompt_token_ids"), fields.raw("prompt")) {
        (Some(ids), _) => ("prompt_token_ids", ids),
        (None, Some(prompt)) => ("prompt", prompt),
        (None, None) => return Err(ApiError::missing("prompt")),
    };
    let items = separate(given);
    if items.is_empty() {
        return Err(ApiError::invalid(param, format!("`{param}` is empty")));
    }
    if items.len() * candidates > SEQUENCES_MAX {
        return Err(ApiError::invalid(param, format!("at most {SEQUENCES_MAX} completions can be asked for at once")));
    }
    check_kinds(param, &items)?;
    let echo = fields.flag("echo")?;
    items.into_iter().map(|item| prompt(api, param, item, echo)?.cut(fields, &api.model)).collect()
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

/// How a completion is answered.
pub struct Completion {
    api: Arc<Api>,
    id: String,
    created: u64,
    /// Sequences told of each prompt, and generated for it.
    n: usize,
    candidates: usize,
    /// Whether nothing but the prompt is told.
    scores_only: bool,
    /// What stands before each prompt's completions.
    echoes: Vec<String>,
    /// Where they are wanted: each prompt's.
    prompt_token_ids: Option<Vec<Vec<u32>>>,
    /// Alternatives to tell; none: no log-probabilities at all.
    logprobs: Option<u32>,
    /// Whether the prompt's own are told with those of the text.
    echoes_logprobs: bool,
    scores: PromptScores,
    names: TokenNames,
    /// Of each sequence told, where the next token's text begins.
    offsets: Vec<usize>,
}

/// A sequence of a whole answer. All keys are written, as in FastDeploy.
#[derive(Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
pub struct WholeChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
    prompt_token_ids: Option<Vec<u32>>,
    completion_token_ids: Option<Vec<u32>>,
    prompt_logprobs: Option<Value>,
    arrival_time: Option<f64>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<Value>>,
}

/// A step of a sequence.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = CompletionChunkChoice)]
pub struct ChunkChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_token_ids: Option<[u32; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<[u32; 1]>,
}

impl Completion {
    fn new(api: Arc<Api>, generation: &Generation, prompts: &[(Prompt, u32)], logprobs: Option<u32>) -> Self {
        let n = generation.n as usize;
        let ids = || prompts.iter().map(|(prompt, _)| prompt.ids.clone()).collect();
        let echoes: Vec<_> = prompts.iter().map(|(prompt, _)| prompt.echo.clone().unwrap_or_default()).collect();
        Self {
            id: request_id::make("cmpl-", generation.request_id.as_deref(), generation.user.as_deref()),
            created: request_id::now(),
            n,
            candidates: generation.candidates as usize,
            scores_only: generation.scores_only,
            prompt_token_ids: generation.return_token_ids.then(ids),
            logprobs,
            echoes_logprobs: generation.echo_logprobs.is_some(),
            scores: PromptScores::new(generation, prompts),
            names: generation.token_names(&api.model),
            offsets: echoes.iter().flat_map(|echo| std::iter::repeat_n(echo.chars().count(), n)).collect(),
            echoes,
            api,
        }
    }

    fn prompt_token_ids(&self, index: usize) -> Option<Vec<u32>> {
        self.prompt_token_ids.as_ref().map(|all| all[index / self.n].clone())
    }

    /// The first sequence that was generated for the prompt of this choice: its prompt's scores are those of all.
    fn scored(&self, index: usize) -> usize {
        index / self.n * self.candidates
    }

    fn echo_logprobs(&self, index: usize) -> Option<CompletionLogprobs> {
        let alternatives = self.logprobs.filter(|_| self.echoes_logprobs)?;
        let prompt = self.scores.of(self.scored(index));
        Some(logprobs::of_echo(prompt, alternatives, &self.names, &self.echoes[index / self.n]))
    }

    fn piece_logprobs(&mut self, index: usize, pieces: &[Piece]) -> Option<CompletionLogprobs> {
        self.logprobs.and_then(|_| logprobs::of_completion(pieces, &self.names, &mut self.offsets[index]))
    }
}

impl Wording for Completion {
    fn head(&self, _streamed: bool) -> Head {
        let Self { id, created, .. } = self;
        Head { id: id.clone(), object: "text_completion", created: *created, model: self.api.model.name.clone() }
    }

    fn scores(&mut self, sequence: usize, scores: Vec<Logprobs>) {
        self.scores.take(sequence, scores);
    }

    fn choose(&self, all: Vec<Collected>) -> Vec<Collected> {
        if self.candidates == self.n { all } else { best_of::choose(all, self.candidates, self.n) }
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let choice = ChunkChoice {
            index,
            text: self.echoes[index / self.n].clone(),
            logprobs: self.echo_logprobs(index),
            prompt_token_ids: self.prompt_token_ids(index),
            prompt_logprobs: self.scores.told(self.scored(index), &self.names),
            ..ChunkChoice::default()
        };
        let says_something =
            !choice.text.is_empty() || choice.prompt_token_ids.is_some() || choice.prompt_logprobs.is_some();
        says_something.then(|| json!(choice))
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Value> {
        let arrival_time = Some(piece.arrival_time);
        if self.scores_only {
            let finish_reason = Some(FinishReason::Length);
            return vec![json!(ChunkChoice { index, finish_reason, arrival_time, ..ChunkChoice::default() })];
        }
        let ids = self.prompt_token_ids.is_some().then_some([piece.token]);
        vec![json!(ChunkChoice {
            index,
            text: piece.text.clone(),
            logprobs: self.piece_logprobs(index, std::slice::from_ref(piece)),
            finish_reason: piece.finish,
            arrival_time,
            completion_token_ids: ids,
            token_ids: ids,
            ..ChunkChoice::default()
        })]
    }

    fn whole(&mut self, index: usize, mut collected: Collected) -> Value {
        if self.scores_only {
            collected = Collected { finish: Some(FinishReason::Length), ..Collected::default() };
        }
        let Collected { text, pieces, finish } = collected;
        let prompt_token_ids = self.prompt_token_ids(index);
        let completion_token_ids = prompt_token_ids.is_some().then(|| pieces.iter().map(|piece| piece.token).collect());
        let own = self.piece_logprobs(index, &pieces);
        let logprobs = match self.echo_logprobs(index) {
            Some(echo) => Some(echo.followed_by(own)),
            None => own,
        };
        json!(WholeChoice {
            index,
            text: self.echoes[index / self.n].clone() + &text,
            logprobs,
            finish_reason: finish,
            prompt_token_ids,
            completion_token_ids,
            prompt_logprobs: self.scores.told(self.scored(index), &self.names),
            arrival_time: None,
            reasoning_content: None,
            tool_calls: None,
        })
    }
}

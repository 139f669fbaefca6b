//! `POST /v1/embeddings`: the model's hidden states of a text, pooled to one vector.
//!
//! Any model that is served can do this; whether its vectors are good for a purpose is another matter. Every input is a
//! sequence of its own for the engine.

mod form;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use workers::link::step::Pooling;

use self::form::{Embedding, Form};
use super::{
    Api,
    admission::Place,
    chat_completions,
    error::ApiError,
    fields::{Fields, separate, token_ids},
    generation::Prompt,
    openapi::requests::EmbeddingsRequest,
    request_id,
    running::{PromptTokensDetails, Usage},
};
use crate::{
    engine::{
        RequestStream,
        request::{Event, Failure, NewRequest},
    },
    monitor::Passage,
};

/// Most inputs of one request; OpenAI's bound.
const INPUTS_MAX: usize = 2048;

/// The vectors of all inputs.
#[derive(Serialize, ToSchema)]
pub struct Embeddings {
    /// The request's id.
    id: String,
    /// `list`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// The model's name.
    model: String,
    /// One for each input, in order.
    data: Vec<EmbeddingEntry>,
    /// What was used.
    usage: Usage,
}

/// The vector of one input.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingEntry {
    /// Which input.
    index: usize,
    /// `embedding`.
    object: &'static str,
    /// The vector.
    embedding: Embedding,
}

/// What is wanted.
struct Wanted {
    id: String,
    inputs: Vec<Prompt>,
    pooling: Pooling,
    form: Form,
}

/// Answers one request with one or many inputs.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let place = api.enter(&request)?;
    let body = api.body(&request, body).await?;
    let own = Arc::clone(&api);
    let wanted =
        api.on_text_thread(move || understand(&own, &Fields::read(&body)?.described_by::<EmbeddingsRequest>())).await?;
    tracing::debug!(id = wanted.id, request = place.name, inputs = wanted.inputs.len(), "request");
    let mut entry = api.open.enter(&wanted.id, [place.name.clone()]);
    tokio::select! {
        answer = pooled(&api, wanted, &place) => Ok(HttpResponse::Ok().json(answer?)),
        () = entry.aborted() => Err(Failure::Aborted.into()),
    }
}

fn understand(api: &Api, fields: &Fields) -> Result<Wanted, ApiError> {
    api.model.check_name(fields)?;
    let longest = longest(fields, api.model.max_model_len)?;
    let shortened = |(param, mut ids): (&'static str, Vec<u32>)| {
        ids.truncate(longest);
        check_fits(param, ids.len(), api.model.max_model_len)?;
        Prompt::new(param, ids, None, &api.model)
    };
    let (chosen, user) = (fields.get::<String>("request_id")?, fields.get::<String>("user")?);
    Ok(Wanted {
        id: request_id::make("embd-", chosen.as_deref(), user.as_deref()),
        inputs: inputs(api, fields)?.into_iter().map(shortened).collect::<Result<_, _>>()?,
        pooling: pooling(fields)?.unwrap_or(api.settings.pooling),
        form: Form::read(fields, api.model.hidden_size)?,
    })
}

fn check_fits(param: &str, tokens: usize, max_model_len: usize) -> Result<(), ApiError> {
    if tokens <= max_model_len {
        return Ok(());
    }
    let message = format!(
        "an input has {tokens} tokens, the context is {max_model_len}; `truncate_prompt_tokens` would cut it to that"
    );
    Err(ApiError::too_long(param, message))
}

/// How many tokens of an input are kept.
fn longest(fields: &Fields, max_model_len: usize) -> Result<usize, ApiError> {
    match fields.integer("truncate_prompt_tokens", -1..=i64::from(u32::MAX))? {
        None => Ok(usize::MAX),
        Some(0) => Err(ApiError::invalid("truncate_prompt_tokens", "`truncate_prompt_tokens` must leave a token")),
        Some(count) => Ok(usize::try_from(count).unwrap_or(max_model_len)),
    }
}

/// The tokens of each input, and the field that they came from.
fn inputs(api: &Api, fields: &Fields) -> Result<Vec<(&'static str, Vec<u32>)>, ApiError> {
    let Some(input) = fields.raw("input") else {
        return match fields.raw("messages") {
            Some(_) => Ok(vec![("messages", chat_completions::prompt(api, fields)?.ids)]),
            None => Err(ApiError::missing("input")),
        };
    };
    let items = separate(input);
    if items.is_empty() || items.len() > INPUTS_MAX {
        return Err(ApiError::invalid("input", format!("`input` must have 1 to {INPUTS_MAX} texts")));
    }
    items.into_iter().map(|item| Ok(("input", input_ids(api, item)?))).collect()
}

fn input_ids(api: &Api, item: &Value) -> Result<Vec<u32>, ApiError> {
    match item {
        Value::String(text) => {
            api.model.text.completion_prompt(text).map_err(|error| ApiError::from(error).about("input"))
        }
        Value::Array(_) => token_ids("input", item, api.model.vocabulary),
        _ => {
            let message = "`input` must be a string, a list of strings, a list of token ids or a list of such lists";
            Err(ApiError::invalid("input", message))
        }
    }
}

fn pooling(fields: &Fields) -> Result<Option<Pooling>, ApiError> {
    match fields.get::<String>("pooling")?.as_deref() {
        None => Ok(None),
        Some("mean") => Ok(Some(Pooling::Mean)),
        Some("last") => Ok(Some(Pooling::Last)),
        Some(_) => Err(ApiError::invalid("pooling", "`pooling` must be `mean` or `last`")),
    }
}

/// Submits all inputs, and waits for all. Dropping it cancels what hasn't ended.
async fn pooled(api: &Api, wanted: Wanted, place: &Place) -> Result<Embeddings, ApiError> {
    let Wanted { id, inputs, pooling, form } = wanted;
    let mut running = Vec::with_capacity(inputs.len());
    for Prompt { ids, .. } in inputs {
        let (tokens, passage) = (ids.len() as u64, api.monitor.passage(ids.len(), 0, place.trace.clone()));
        let max_waiting = api.settings.max_waiting;
        let request = NewRequest {
            id: id.clone(),
            prompt: ids,
            pooling: Some(pooling),
            max_tokens: 1,
            max_waiting,
            ..NewRequest::default()
        };
        running.push(Input { events: api.engine.submit(request)?, passage, tokens });
        place.charge(tokens);
    }
    let (mut data, mut usage) = (Vec::with_capacity(running.len()), Usage::default());
    for (index, input) in running.into_iter().enumerate() {
        let vector = input.follow(api, &mut usage).await?;
        data.push(EmbeddingEntry { index, object: "embedding", embedding: form.apply(vector) });
    }
    Ok(Embeddings { id, object: "list", created: request_id::now(), model: api.model.name.clone(), data, usage })
}

/// One sequence of the engine's.
struct Input {
    events: RequestStream,
    passage: Passage,
    tokens: u64,
}

impl Input {
    /// Waits for its vector.
    async fn follow(mut self, api: &Api, usage: &mut Usage) -> Result<Vec<f32>, ApiError> {
        let mut vector = None;
        while let Some(event) = self.events.next().await {
            let now = std::time::Instant::now();
            match event {
                Event::Started { cached_tokens } => {
                    self.passage.started(now);
                    api.monitor.count_prompt(self.tokens, cached_tokens.into());
                    usage.prompt_tokens += self.tokens;
                    usage.total_tokens += self.tokens;
                    let PromptTokensDetails { cached_tokens: cached } = &mut usage.prompt_tokens_details;
                    *cached += u64::from(cached_tokens);
                }
                Event::Embedding(found) => vector = Some(found),
                Event::Finished(_) => {
                    self.passage.finished(now);
                    return vector.ok_or_else(|| ApiError::internal("the ranks gave no embedding; this is a bug"));
                }
                Event::Failed(failure) => return Err(failure.into()),
                Event::Token { .. } | Event::PromptLogprobs(_) => {}
            }
        }
        Err(ApiError::unavailable("the engine has stopped"))
    }
}

//! `POST /v1/chat/completions`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use workers::link::report::Logprobs;

use super::{
    Api,
    answer::{Collected, Head, Wording},
    choice::{FinishReason, Piece},
    error::ApiError,
    fields::Fields,
    generation::{Generation, Prompt, logprobs_count},
    logprobs::{self, ChatLogprobs, TokenNames},
    model::ServedModel,
    prompt_scores::PromptScores,
    request_id,
};
use crate::text::ChatOptions;

/// Answers one chat.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    api.generate(&request, body, prepare).await
}

/// A request that was understood: what is wanted, of which prompts, and how it will be answered.
pub fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<super::Prepared<Chat>, ApiError> {
    let mut fields = Fields::read(body)?;
    fields.fall_back_on("metadata")?;
    let Understood { generation, prompt, max_tokens } = understand(api, &fields)?;
    let id = request_id::make("chatcmpl-", generation.request_id.as_deref(), generation.user.as_deref());
    let prompt_token_ids = generation.return_token_ids.then(|| prompt.ids.clone());
    let (names, prompts) = (generation.token_names(&api.model), vec![(prompt, max_tokens)]);
    let scores = PromptScores::new(&generation, &prompts);
    let wording =
        Chat { api: api.clone(), id: id.clone(), created: request_id::now(), prompt_token_ids, names, scores };
    Ok(super::Prepared { id, generation, prompts, wording })
}

/// What a chat asks for, in whichever dialect it was asked.
pub struct Understood {
    /// How to generate.
    pub generation: Generation,
    /// The conversation as tokens.
    pub prompt: Prompt,
    /// The most tokens that may follow it.
    pub max_tokens: u32,
}

/// Understands the fields of a chat request. Other dialects translate theirs to these.
pub fn understand(api: &Api, fields: &Fields) -> Result<Understood, ApiError> {
    let generation = Generation::read(fields, &api.model, chat_logprobs(fields, &api.model)?)?;
    let prompt = prompt(api, fields)?;
    let max_tokens = generation.max_tokens_after(&prompt, None, &api.model)?;
    Ok(Understood { generation, prompt, max_tokens })
}

/// The conversation as tokens, however many.
pub fn prompt(api: &Api, fields: &Fields) -> Result<Prompt, ApiError> {
    let (param, ids) = match fields.token_ids("prompt_token_ids", api.model.vocabulary)? {
        Some(ids) => ("prompt_token_ids", ids),
        None => ("messages", messages_ids(api, fields)?),
    };
    Prompt::new(param, ids, None, &api.model)
}

/// `logprobs` is a boolean here, `top_logprobs` the number of alternatives.
fn chat_logprobs(fields: &Fields, model: &ServedModel) -> Result<Option<u32>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    match logprobs_count(fields, "top_logprobs", model)? {
        Some(count) if wanted => Ok(Some(count)),
        Some(1..) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
        _ => Ok(wanted.then_some(0)),
    }
}

fn messages_ids(api: &Api, fields: &Fields) -> Result<Vec<u32>, ApiError> {
    let messages = fields.raw("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let first = match messages.as_array().map(Vec::as_slice) {
        Some([first, ..]) => first,
        _ => return Err(ApiError::invalid("messages", "`messages` must be a list of at least one message")),
    };
    let about_messages = |error| ApiError::from(error).about("messages");
    if fields.flag("disable_chat_template")? {
        let text = first.get("content").and_then(Value::as_str);
        let text =
            text.ok_or_else(|| ApiError::invalid("messages", "the first message's `content` must be a string"))?;
        api.model.text.completion_prompt(text).map_err(about_messages)
    } else {
        api.model.text.chat_prompt(messages, &chat_options(fields)?).map_err(about_messages)
    }
}

/// What the template is told beside the messages. The top level counts more than `chat_template_kwargs`, that more
/// than `metadata`.
fn chat_options(fields: &Fields) -> Result<ChatOptions, ApiError> {
    if fields.raw("chat_template").is_some() {
        return Err(ApiError::unsupported("chat_template", "a chat template of the request's own"));
    }
    let mut kwargs: serde_json::Map<String, Value> = fields.get("chat_template_kwargs")?.unwrap_or_default();
    let thinking = fields.own("enable_thinking").or(kwargs.get("enable_thinking")).or(fields.raw("enable_thinking"));
    let thinking = thinking.cloned().unwrap_or(Value::Bool(true));
    if !thinking.is_boolean() {
        return Err(ApiError::invalid("enable_thinking", "`enable_thinking` must be true or false"));
    }
    kwargs.insert("enable_thinking".into(), thinking);
    Ok(ChatOptions {
        add_generation_prompt: fields.get("add_generation_prompt")?.unwrap_or(true),
        continue_final_message: fields.flag("continue_final_message")?,
        tools: tools(fields)?,
        documents: fields.get::<Vec<Value>>("documents")?.map(Value::from),
        kwargs,
    })
}

fn tools(fields: &Fields) -> Result<Option<Value>, ApiError> {
    let choice = fields.raw("tool_choice");
    if choice.is_some_and(|choice| choice == "required" || choice.is_object()) {
        return Err(ApiError::unsupported("tool_choice", "forcing a tool call"));
    }
    match fields.raw("tools") {
        Some(tools) if !tools.is_array() => Err(ApiError::invalid("tools", "`tools` must be a list")),
        Some(tools) if choice.is_none_or(|choice| choice != "none") && *tools != json!([]) => Ok(Some(tools.clone())),
        _ => Ok(None),
    }
}

/// How a chat is answered.
pub struct Chat {
    api: Arc<Api>,
    id: String,
    created: u64,
    /// Where they are wanted.
    prompt_token_ids: Option<Vec<u32>>,
    names: TokenNames,
    scores: PromptScores,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
    prompt_logprobs: Option<Value>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    reasoning_content: Option<String>,
    tool_calls: Option<Value>,
    prompt_token_ids: Option<Vec<u32>>,
    completion_token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "snake_case")]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_token_ids: Option<[u32; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<[u32; 1]>,
}

impl Wording for Chat {
    fn head(&self, streamed: bool) -> Head {
        let object = if streamed { "chat.completion.chunk" } else { "chat.completion" };
        Head { id: self.id.clone(), object, created: self.created, model: self.api.model.name.clone() }
    }

    fn scores(&mut self, sequence: usize, scores: Vec<Logprobs>) {
        self.scores.take(sequence, scores);
    }

    fn prompt_logprobs(&self) -> Option<Value> {
        self.scores.told(0, &self.names)
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let delta = Delta {
            role: Some("assistant"),
            reasoning_content: Some(String::new()),
            prompt_token_ids: self.prompt_token_ids.clone(),
            ..Delta::default()
        };
        let prompt_logprobs = self.scores.told(index, &self.names);
        Some(json!(ChunkChoice {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
            arrival_time: None,
            prompt_logprobs
        }))
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Value {
        let ids = self.prompt_token_ids.is_some().then_some([piece.token]);
        let content = piece.text.clone();
        json!(ChunkChoice {
            index,
            delta: Delta { content, completion_token_ids: ids, token_ids: ids, ..Delta::default() },
            logprobs: logprobs::of_chat(std::slice::from_ref(piece), &self.names),
            finish_reason: piece.finish,
            arrival_time: Some(piece.arrival_time),
            prompt_logprobs: None,
        })
    }

    fn whole(&mut self, index: usize, collected: Collected) -> Value {
        let Collected { text, pieces, finish } = collected;
        let prompt_token_ids = self.prompt_token_ids.clone();
        let completion_token_ids = prompt_token_ids.is_some().then(|| pieces.iter().map(|piece| piece.token).collect());
        let (reasoning_content, tool_calls) = (None, None);
        let message = Message {
            role: "assistant",
            content: text,
            reasoning_content,
            tool_calls,
            prompt_token_ids,
            completion_token_ids,
        };
        let logprobs = logprobs::of_chat(&pieces, &self.names);
        let prompt_logprobs = self.scores.told(index, &self.names);
        json!(WholeChoice { index, message, logprobs, finish_reason: finish, prompt_logprobs })
    }
}

//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's protocol over the same engine.
//!
//! A request is put into the words of chats ([`request`], [`content`], [`tools`]) and understood as they are; its answer
//! is a list of blocks ([`answer`]), its errors have a form of their own ([`error`]).

mod answer;
mod content;
pub mod error;
mod request;
mod tools;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use self::answer::Answer;
use super::{
    Api, Prepared, Started,
    chat_completions::{self, Understood},
    error::ApiError,
    fields::Fields,
    openapi::requests::MessagesRequest,
    request_id, telling,
};

/// Answers one conversation.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let Started { running, stream, wording } = api.start(&request, body, prepare).await?;
    match stream {
        Some(_) => telling::streamed(running, wording).await,
        None => telling::whole(running, wording).await,
    }
}

fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<Prepared<Answer>, ApiError> {
    let given = Fields::read(body)?.described_by::<MessagesRequest>();
    if given.integer("max_tokens", 1..=i64::MAX)?.is_none() {
        return Err(ApiError::missing("max_tokens"));
    }
    let chat = request::to_chat(given)?;
    let Understood { generation, prompt, max_tokens } = chat_completions::understand(api, &chat)?;
    let id = request_id::make("msg_", None, None);
    let wording = Answer::new(id.clone(), api.model.name.clone());
    Ok(Prepared { id, generation, prompts: vec![(prompt, max_tokens)], wording })
}

/// How many tokens a conversation is. Needs no rank, and counts what doesn't fit the context too.
pub async fn count_tokens(
    api: web::Data<Api>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let count = |api: &Api, body: &_| {
        let chat = request::to_chat(Fields::read(body)?.described_by::<MessagesRequest>())?;
        api.model.check_name(&chat)?;
        Ok(json!({"input_tokens": chat_completions::prompt(api, &chat)?.ids.len()}))
    };
    api.answer_on_text_thread(&request, body, count).await
}

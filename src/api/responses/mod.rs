//! `/v1/responses`: OpenAI's Responses protocol over the same engine.
//!
//! A request is put into the words of chats ([`request`], [`input`], [`tools`]) and understood as they are; its answer is
//! a list of items ([`items`], [`answer`]) inside a response object. Responses that are stored ([`store`]) can be looked
//! up, continued and deleted; those in the background go on without anybody listening ([`background`]).

mod answer;
mod background;
mod input;
mod items;
mod request;
mod store;
mod tools;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use self::{answer::Answer, request::Asked};
use super::{
    Api, Prepared, Started,
    chat_completions::{self, Understood},
    error::ApiError,
    fields::Fields,
    openapi::requests::ResponsesRequest,
    request_id, telling,
};

pub use self::store::{Limits, Store};

/// Answers one request.
pub async fn post(api: web::Data<Api>, request: HttpRequest, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let Started { running, stream, wording } = api.start(&request, body, prepare).await?;
    match (wording.is_background(), stream) {
        (true, stream) => Ok(background::start(running, wording, stream.is_some())),
        (false, Some(_)) => telling::streamed(running, wording).await,
        (false, None) => telling::whole(running, wording).await,
    }
}

fn prepare(api: &Arc<Api>, body: &[u8]) -> Result<Prepared<Answer>, ApiError> {
    let given = Fields::read(body)?.described_by::<ResponsesRequest>();
    let asked = Asked::read(given, &api.responses)?;
    let understood = chat_completions::understand(api, &asked.chat).map_err(request::in_our_words)?;
    let Understood { generation, prompt, max_tokens } = understood;
    let id = request_id::make("resp_", None, None);
    let wording = Answer::new(api.clone(), id.clone(), asked, &generation);
    Ok(Prepared { id, generation, prompts: vec![(prompt, max_tokens)], wording })
}

/// A stored response as it is by now.
pub async fn get(
    api: web::Data<Api>,
    id: web::Path<String>,
    query: web::Query<Value>,
) -> Result<HttpResponse, ApiError> {
    if query.get("stream").is_some_and(|stream| *stream == "true") {
        return Err(ApiError::unsupported("stream", "streaming a response again"));
    }
    api.responses.get(&id).map(|response| HttpResponse::Ok().json(response)).ok_or_else(|| unknown(&id))
}

/// Forgets a response; ends it first where it still runs.
pub async fn delete(api: web::Data<Api>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    match api.responses.delete(&id) {
        true => Ok(HttpResponse::Ok().json(json!({"id": *id, "object": "response", "deleted": true}))),
        false => Err(unknown(&id)),
    }
}

/// Ends a response that runs in the background; one that has ended stays as it is.
pub async fn cancel(api: web::Data<Api>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let response = api.responses.cancel(&id).ok_or_else(|| unknown(&id))?;
    match response["background"] == true {
        true => Ok(HttpResponse::Ok().json(response)),
        false => Err(ApiError::invalid("response_id", "only a response in the background can be cancelled")),
    }
}

/// What a response answers: the items of its own request, newest first unless `order=asc`.
pub async fn input_items(
    api: web::Data<Api>,
    id: web::Path<String>,
    query: web::Query<Value>,
) -> Result<HttpResponse, ApiError> {
    let items = api.responses.input(&id).ok_or_else(|| unknown(&id))?;
    let text = |name: &str| query.get(name).and_then(Value::as_str);
    Ok(HttpResponse::Ok().json(input::page(items, text("order"), text("after"), text("limit"))?))
}

fn unknown(id: &str) -> ApiError {
    ApiError::unknown_response(id)
}

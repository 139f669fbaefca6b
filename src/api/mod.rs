//! HTTP: the only room that knows actix or JSON bodies; one file per endpoint.
//!
//! A generating request's way: name and key ([`middleware`], [`keys`]) → place and rates ([`admission`], [`rates`]) → body
//! → parameters and tokens, on a blocking thread ([`generation`], `prepare` of the endpoint) → engine ([`running`]) →
//! answer, whole or streamed ([`answer`]).

mod abort;
mod admission;
mod answer;
mod best_of;
mod blocks;
mod chat_completions;
mod choice;
mod completions;
mod conversation;
pub mod cors;
mod embeddings;
mod error;
mod fields;
mod generation;
mod health;
mod keys;
mod load;
mod logprobs;
mod messages;
mod metrics;
mod middleware;
mod model;
mod models;
mod open_requests;
pub mod openapi;
mod page;
mod prompt_scores;
mod ranks;
mod rates;
mod request_id;
mod responses;
mod running;
mod sampling;
mod sse;
mod structured;
mod telling;
mod tokenize;
mod version;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{HttpMessage, HttpRequest, HttpResponse, guard, http::header, web};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::Semaphore;
use workers::link::step::Pooling;

use crate::{
    engine::{EngineHandle, request::EarlyStop},
    liveness::Liveness,
    monitor::Monitor,
    supervisor::Supervisor,
    traces::{RequestTrace, Traces},
};

pub use self::{
    admission::Admission,
    error::ApiError,
    keys::ApiKeys,
    messages::error::reworded,
    middleware::{guarded, named},
    model::ServedModel,
    open_requests::OpenRequests,
    rates::{Accounts, Rates},
    request_id::now,
    responses::{Limits as ResponseLimits, Store as ResponseStore},
};
use self::{
    admission::Place,
    middleware::{RequestName, Visitor},
};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What all endpoints share.
pub struct Api {
    /// The model as clients see it.
    pub model: ServedModel,
    /// Where requests are computed.
    pub engine: EngineHandle,
    /// Who watches the ranks.
    pub supervisor: Arc<Supervisor>,
    /// Whether the loops of these two run.
    pub liveness: Liveness,
    /// What is counted.
    pub monitor: Monitor,
    /// Where requests are traced, if they are.
    pub traces: Option<Traces>,
    /// Who may come in.
    pub admission: Admission,
    /// Keys of clients.
    pub keys: ApiKeys,
    /// What each key may use.
    pub accounts: Accounts,
    /// What is being computed.
    pub open: OpenRequests,
    /// Responses that clients may come back to.
    pub responses: ResponseStore,
    /// Places on the threads that read and tokenize requests.
    pub text_threads: Semaphore,
    /// The same for requests that may ask for a form: a grammar can take seconds, for which nobody else shall wait.
    pub form_threads: Semaphore,
    /// Bounds.
    pub settings: Settings,
}

/// Bounds of single requests, and what is served at all.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Largest body, bytes.
    pub body_bytes_max: usize,
    /// How long a request may wait for its turn; none: for ever.
    pub max_waiting: Option<Duration>,
    /// How hidden states become an embedding, where a request doesn't say.
    pub pooling: Pooling,
    /// Ends sequences that repeat themselves; none: they may.
    pub early_stop: Option<EarlyStop>,
    /// Whether there is a page for people.
    pub serves_page: bool,
}

/// A request that was understood.
pub struct Prepared<W> {
    /// The answer's id.
    id: String,
    /// What is wanted.
    generation: generation::Generation,
    /// Of which prompts, each with the most tokens that may follow it.
    prompts: Vec<(generation::Prompt, u32)>,
    /// How it will be answered.
    wording: W,
}

/// A request that is on its way.
struct Started<W> {
    running: running::Running,
    /// Answer in pieces, and how; `None`: as a whole.
    stream: Option<generation::StreamOptions>,
    wording: W,
}

/// An endpoint's own part of a request's way: from the body to what is wanted.
type Prepare<W> = fn(&Arc<Api>, &[u8]) -> Result<Prepared<W>, ApiError>;

impl Api {
    /// The whole life of a chat or completion; `prepare` is the endpoint's own part of it.
    async fn generate<W: answer::Wording + Send>(
        self: &Arc<Self>,
        request: &HttpRequest,
        body: web::Payload,
        prepare: Prepare<W>,
    ) -> Result<HttpResponse, ApiError> {
        let Started { running, stream, wording } = self.start(request, body, prepare).await?;
        match stream {
            Some(options) => answer::streamed(running, wording, options).await,
            None => answer::whole(running, wording).await,
        }
    }

    /// A generating request's way to the ranks, in whichever dialect it was asked.
    async fn start<W: Send + 'static>(
        self: &Arc<Self>,
        request: &HttpRequest,
        body: web::Payload,
        prepare: Prepare<W>,
    ) -> Result<Started<W>, ApiError> {
        let place = self.enter(request)?;
        let body = self.body(request, body).await?;
        let api = self.clone();
        let places = if may_ask_for_form(&body) { &self.form_threads } else { &self.text_threads };
        let prepared = self.on_thread_of(places, move || prepare(&api, &body)).await?;
        let Prepared { id, generation, prompts, wording } = prepared;
        tracing::debug!(id, request = place.name, prompts = prompts.len(), n = generation.n, "request");
        let running = running::Running::submit(self, &id, &generation, &prompts, place)?;
        Ok(Started { running, stream: generation.stream, wording })
    }

    /// The whole life of a request that needs no rank, from its body to what is told.
    async fn answer_on_text_thread<T: Serialize + Send + 'static>(
        self: &Arc<Self>,
        request: &HttpRequest,
        body: web::Payload,
        answer: fn(&Api, &[u8]) -> Result<T, ApiError>,
    ) -> Result<HttpResponse, ApiError> {
        let body = self.body(request, body).await?;
        let api = self.clone();
        Ok(HttpResponse::Ok().json(self.on_text_thread(move || answer(&api, &body)).await?))
    }

    /// Lets a request in that is to be computed: counted, and within the bounds of the server and of its key.
    fn enter(&self, request: &HttpRequest) -> Result<Place, ApiError> {
        self.monitor.count_request();
        let permit = self.admission.enter()?;
        let mut known = request.extensions_mut();
        let account = self.accounts.of_key(known.get().map_or(0, |&Visitor(key)| key));
        let taken = account.take_request(Instant::now());
        known.insert(account.headers(Instant::now()));
        let name = known.get().map_or_else(String::new, |RequestName(name)| name.clone());
        let trace = known.get::<RequestTrace>().cloned();
        taken.map(|()| Place::new(permit, account, name, trace))
    }

    /// Reads a body up to the limit.
    async fn body(&self, request: &HttpRequest, mut payload: web::Payload) -> Result<web::Bytes, ApiError> {
        let limit = self.settings.body_bytes_max;
        let declared = request.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: u64| length > limit as u64) {
            return Err(ApiError::body_too_large(limit));
        }
        let read = async {
            let mut body = web::BytesMut::new();
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| ApiError::bad_body(format!("the body can't be read: {error}")))?;
                if body.len() + chunk.len() > limit {
                    return Err(ApiError::body_too_large(limit));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        let late = |_| ApiError::timeout(format!("the body didn't arrive within {} s", BODY_TIMEOUT.as_secs()));
        tokio::time::timeout(BODY_TIMEOUT, read).await.map_err(late)?
    }

    /// Runs what may take long away from the threads that speak HTTP, only so many at once.
    async fn on_text_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.on_thread_of(&self.text_threads, work).await
    }

    async fn on_thread_of<T: Send + 'static>(
        &self,
        places: &Semaphore,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _place = places.acquire().await.map_err(|_| ApiError::unavailable("it is shutting down"))?;
        let panicked = |_| ApiError::internal("the request broke the server's own rules; this is a bug");
        web::block(work).await.map_err(panicked)?
    }
}

/// Whether a body, not read yet, may ask for an answer in a form, in any dialect. One that hides a name behind escapes may.
fn may_ask_for_form(body: &[u8]) -> bool {
    const SIGNS: [&str; 5] = ["guided_", "format", "structur", "tool_choice", "\\u"];
    std::str::from_utf8(body).is_ok_and(|body| SIGNS.iter().any(|sign| body.contains(sign)))
}

/// All endpoints, for actix's `App::configure`.
pub fn routes(config: &mut web::ServiceConfig) {
    let on = |path: &str, methods: &'static str, route: actix_web::Route| {
        web::resource(path).route(route).default_service(web::to(move |request| wrong_method(request, methods)))
    };
    config
        .service(on("/", "GET, HEAD", reading().to(page::get)))
        .service(on("/page/{file}", "GET, HEAD", reading().to(page::get)))
        .service(on("/v1/chat/completions", "POST", web::post().to(chat_completions::post)))
        .service(on("/v1/completions", "POST", web::post().to(completions::post)))
        .service(on("/v1/embeddings", "POST", web::post().to(embeddings::post)))
        .service(on("/tokenize", "POST", web::post().to(tokenize::tokenize)))
        .service(on("/v1/tokenize", "POST", web::post().to(tokenize::tokenize)))
        .service(on("/detokenize", "POST", web::post().to(tokenize::detokenize)))
        .service(on("/v1/detokenize", "POST", web::post().to(tokenize::detokenize)))
        .service(on("/load", "GET", web::get().to(load::get)))
        .service(on("/v1/abort_requests", "POST", web::post().to(abort::post)))
        .service(on("/v1/messages", "POST", web::post().to(messages::post)))
        .service(on("/v1/messages/count_tokens", "POST", web::post().to(messages::count_tokens)))
        .service(on("/v1/responses", "POST", web::post().to(responses::post)))
        .service(
            on("/v1/responses/{id}", "GET, DELETE", web::get().to(responses::get))
                .route(web::delete().to(responses::delete)),
        )
        .service(on("/v1/responses/{id}/cancel", "POST", web::post().to(responses::cancel)))
        .service(on("/v1/responses/{id}/input_items", "GET", web::get().to(responses::input_items)))
        .service(on("/v1/models", "GET", web::get().to(models::list)))
        .service(on("/v1/models/{name:.*}", "GET", web::get().to(models::one)))
        .service(on("/health", "GET, HEAD", reading().to(health::health)))
        .service(on("/ping", "GET, HEAD, POST", reading_or_posting().to(health::health)))
        .service(on("/livez", "GET, HEAD", reading().to(health::livez)))
        .service(on("/metrics", "GET", web::get().to(metrics::get)))
        .service(on("/ranks", "GET", web::get().to(ranks::get)))
        .service(on("/version", "GET", web::get().to(version::get)))
        .service(on("/openapi.json", "GET", web::get().to(openapi::get)))
        .service(on("/docs", "GET", web::get().to(openapi::page)))
        .default_service(web::to(nothing_here));
}

fn reading() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

fn reading_or_posting() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()).or(guard::Post()))
}

/// `/metrics` alone, for the port of its own.
pub fn metrics_route(config: &mut web::ServiceConfig) {
    config.service(web::resource("/metrics").get(metrics::get)).default_service(web::to(nothing_here));
}

async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found(request.path()))
}

/// What the path does answer stands in `Allow` (RFC 9110, 15.5.6).
async fn wrong_method(request: HttpRequest, methods: &'static str) -> HttpResponse {
    let mut response =
        HttpResponse::from_error(ApiError::method_not_allowed(request.method().as_str(), request.path()));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests {
    use actix_web::{
        App,
        http::Method,
        test::{TestRequest, call_service, init_service},
    };

    use super::*;

    #[actix_web::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let app = init_service(App::new().configure(routes)).await;
        for (method, path, allowed) in [
            (Method::GET, "/v1/chat/completions", "POST"),
            (Method::POST, "/v1/models/a", "GET"),
            (Method::DELETE, "/ping", "GET, HEAD, POST"),
        ] {
            let response = call_service(&app, TestRequest::with_uri(path).method(method).to_request()).await;
            let told = response.headers().get(header::ALLOW).and_then(|methods| methods.to_str().ok());
            assert_eq!((response.status().as_u16(), told), (405, Some(allowed)), "{path}");
        }
    }
}

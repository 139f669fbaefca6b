//! What happens to every request before its endpoint, and to every answer after it: a name, then a key, and an answer
//! even if our own code panics.

use std::{panic::AssertUnwindSafe, time::Instant};

use actix_web::{
    Error, HttpMessage,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method,
        header::{HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use futures_util::FutureExt;

use super::{Api, error::ApiError, rates::RateHeaders, request_id};
use crate::traces::RequestTrace;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Under which name a request is logged; its client's own, or one that was made for it.
#[derive(Clone)]
pub struct RequestName(pub String);

/// Whose request it is: the index of its key.
#[derive(Clone, Copy)]
pub struct Visitor(pub usize);

impl RequestName {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(&X_REQUEST_ID).map(|value| String::from_utf8_lossy(value.as_bytes()));
        Self(request_id::make("", given.as_deref(), None))
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        // The name has only letters that a header may have.
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(X_REQUEST_ID, value);
        }
    }
}

/// Outermost: the request's name, in the answer and in the log.
pub async fn named(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let since = Instant::now();
    let api = request.app_data::<web::Data<Api>>().cloned();
    let name = RequestName::of(request.headers());
    request.extensions_mut().insert(name.clone());
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let trace = api.as_ref().and_then(|api| traced(api, &request));
    if let Some(trace) = &trace {
        request.extensions_mut().insert(trace.clone());
    }
    let answer = next.call(request).await.map(|mut answer| {
        name.add_to(answer.headers_mut());
        answer
    });
    let status = answer.as_ref().map_or_else(|error| error.as_response_error().status_code(), |answer| answer.status());
    let (status, seconds) = (status.as_u16(), since.elapsed().as_secs_f64());
    if let Some(api) = api {
        api.monitor.count_response(status);
    }
    if let Some(trace) = trace {
        trace.answered(status);
    }
    match status {
        500 => tracing::warn!(request = name.0, %method, path, status, seconds, "answered"),
        _ => tracing::debug!(request = name.0, %method, path, status, seconds, "answered"),
    }
    answer.map_err(|error| {
        let mut response = error.error_response();
        name.add_to(response.headers_mut());
        InternalError::from_response(error, response).into()
    })
}

/// The trace of a request that may have something computed: readers of states and pages are many, and tell nothing.
fn traced(api: &Api, request: &ServiceRequest) -> Option<RequestTrace> {
    let traces = api.traces.as_ref().filter(|_| request.method() == Method::POST)?;
    let route = request.match_pattern();
    Some(traces.request(request.method(), route.as_deref(), request.headers()))
}

/// Inside of that: a key, where one is wanted; what is left of its rates; and an answer even if our own code panics.
pub async fn guarded(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    if let Some(api) = request.app_data::<web::Data<Api>>() {
        match api.keys.check(&request) {
            Ok(key) => request.extensions_mut().insert(Visitor(key)),
            Err(refusal) => return Ok(request.error_response(refusal).map_into_right_body()),
        };
    }
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(answer) => answer.map(|mut answer| {
            let rates = answer.request().extensions().get::<RateHeaders>().cloned();
            rates.unwrap_or_default().add_to(answer.headers_mut());
            answer.map_into_left_body()
        }),
        Err(_) => Err(ApiError::internal("the request broke the server's own rules; this is a bug").into()),
    }
}

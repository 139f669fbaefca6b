//! Anthropic's error object, for everything that goes wrong on its paths, at the door too.

use actix_web::{
    Error, HttpMessage, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::{error::ApiError, middleware::RequestName};

/// All paths that begin so are Anthropic's.
const PATHS: &str = "/v1/messages";
/// Where its clients look for the request's name.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Puts the errors of Anthropic's paths into its form; all else passes.
pub async fn reworded(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !request.path().starts_with(PATHS) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let id = request.extensions().get().map(|RequestName(name)| name.clone());
    let mut response = match next.call(request).await {
        Ok(response) => response,
        Err(error) => return Err(error.as_error::<ApiError>().cloned().map_or(error, |own| Reworded(own).into())),
    };
    if let Some(id) = id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let own = response.response().error().and_then(|error| error.as_error::<ApiError>()).cloned();
    Ok(match own {
        Some(error) => response.map_body(|_, _| BoxBody::new(body(&error, id).to_string())),
        None => response.map_into_boxed_body(),
    })
}

/// The body of an answer that isn't a success, and of a stream's event.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnthropicError {
    /// `error`.
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicFault,
    /// The request's name.
    request_id: Option<String>,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct AnthropicFault {
    /// The kind of error, for programs.
    #[serde(rename = "type")]
    kind: &'static str,
    /// For people: what is wrong, and what to do.
    message: String,
}

/// An error in Anthropic's form.
pub fn body(error: &ApiError, request_id: Option<String>) -> Value {
    let fault = AnthropicFault { kind: kind(error.status_code()), message: error.to_string() };
    json!(AnthropicError { kind: "error", error: fault, request_id })
}

fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// An error that never became a response of ours.
#[derive(Debug)]
struct Reworded(ApiError);

impl std::fmt::Display for Reworded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Reworded {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.0.error_response();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.set_body(BoxBody::new(body(&self.0, None).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_anthropic_s() {
        for (error, expected) in [
            (ApiError::missing("max_tokens"), "invalid_request_error"),
            (ApiError::unauthorized("no"), "authentication_error"),
            (ApiError::not_found("/v1/messages/x"), "not_found_error"),
            (ApiError::body_too_large(1), "request_too_large"),
            (ApiError::too_many_requests(1), "rate_limit_error"),
            (ApiError::unavailable("draining"), "overloaded_error"),
            (ApiError::timeout("slow"), "timeout_error"),
            (ApiError::internal("broken"), "api_error"),
        ] {
            let told = body(&error, None);
            assert_eq!((&told["type"], &told["error"]["type"]), (&json!("error"), &json!(expected)));
            assert_eq!(told["error"]["message"], error.to_string());
        }
    }
}

//! OpenAI's error object, the only form in which anything goes wrong over HTTP.

use std::fmt;

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{engine::request::Failure, text::TextError};

/// How long a client should wait before it tries again, where that helps and nothing better is known, in seconds.
const RETRY_AFTER_S: u32 = 1;
/// nginx's word for a request that was given up before its answer: no fault of the server's, and official clients don't
/// try it again by themselves.
const ABORTED: u16 = 499;

/// An answer that isn't a success.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    retry_after_s: Option<u32>,
    body: ErrorBody,
}

/// The body of an answer that isn't a success.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorObject {
    error: ErrorBody,
}

/// What went wrong, and whose fault it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct ErrorBody {
    /// For people: what is wrong, and what to do.
    message: String,
    /// The kind of error, for programs.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field at fault.
    param: Option<String>,
    /// What exactly it is, for programs.
    code: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let come_again = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let retry_after_s = come_again.then_some(RETRY_AFTER_S);
        Self { status, retry_after_s, body: ErrorBody { message: message.into(), kind, param: None, code: Some(code) } }
    }

    /// A parameter whose value can't be used.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad_request("invalid_value", message).about(param)
    }

    /// A parameter that must be there and isn't.
    pub fn missing(param: &str) -> Self {
        Self::bad_request("missing_required_parameter", format!("`{param}` is required")).about(param)
    }

    /// A parameter that is understood but not served yet; ignoring it would give wrong answers.
    pub fn unsupported(param: &str, what: &str) -> Self {
        Self::bad_request("unsupported_parameter", format!("{what} is not supported yet")).about(param)
    }

    /// Prompt and completion don't fit the context.
    pub fn too_long(param: &str, message: String) -> Self {
        Self::bad_request("context_length_exceeded", message).about(param)
    }

    /// A body that isn't a JSON object.
    pub fn bad_body(message: impl Into<String>) -> Self {
        Self::bad_request("invalid_value", message)
    }

    /// 400 with a code of its own.
    fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// No such model here.
    pub fn unknown_model(asked: &str, served: &str) -> Self {
        let message = format!("the model `{}` does not exist; served is `{served}`", shortened(asked));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message).about("model")
    }

    /// No such path.
    pub fn not_found(path: &str) -> Self {
        let message = format!("there is nothing at {}", shortened(path));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
    }

    /// No response of this id is stored.
    pub fn unknown_response(id: &str) -> Self {
        let message = format!("the response `{}` is not stored here, or not any more", shortened(id));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "response_not_found", message).about("response_id")
    }

    /// No response of this id is stored, so that nothing can go on with it.
    pub fn unknown_previous_response(id: &str) -> Self {
        let message = format!("the previous response `{}` is not stored here, or not any more", shortened(id));
        Self::bad_request("previous_response_not_found", message).about("previous_response_id")
    }

    /// The path exists, but not for this method.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{} doesn't answer {}", shortened(path), shortened(method));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    /// A body over the limit.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("the request body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    /// No key, or one that isn't known.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// Too many requests are open.
    pub fn too_many_requests(limit: usize) -> Self {
        Self::from(Failure::QueueFull { limit })
    }

    /// A key has used up what it may use in a minute.
    pub fn rate_limited(message: String, retry_after_s: u32) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", message);
        Self { retry_after_s: Some(retry_after_s), ..error }
    }

    /// The server isn't ready, or on its way down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "unavailable", message)
    }

    /// The client was too slow with its body, or we with our turn.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", "timeout", message)
    }

    /// Our own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "internal_error", message)
    }

    /// The same, naming the parameter.
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// The same about `ours`, if it is about `theirs`: the parameter's name in another dialect.
    pub fn renamed(mut self, theirs: &str, ours: &str) -> Self {
        if self.body.param.as_deref() == Some(theirs) {
            self.body.param = Some(ours.to_owned());
            self.body.message = self.body.message.replace(&format!("`{theirs}`"), &format!("`{ours}`"));
        }
        self
    }

    /// `{"error": …}`, as it stands in bodies and in streams.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": self.body })
    }
}

/// What a client sent, cut to a length that is fit for a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(128) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.body.message)
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self.to_json())
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::QueueFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "too_many_requests", message)
            }
            Failure::WaitedTooLong(_) => Self::timeout(message),
            Failure::Unavailable(_) | Failure::Stopped => Self::unavailable(message),
            Failure::Aborted => {
                let status = StatusCode::from_u16(ABORTED).unwrap_or(StatusCode::BAD_REQUEST);
                Self::new(status, "aborted_error", "request_aborted", message)
            }
            Failure::RanksLost(_) | Failure::Poisonous(_) => Self::internal(message),
            Failure::TooLarge(_) => Self::bad_request("context_length_exceeded", message),
            Failure::Guide(_) => Self::bad_request("grammar_failed", message),
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        if error.is_client_fault() {
            Self::bad_request("invalid_value", error.to_string())
        } else {
            Self::internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_failure_has_its_status() {
        for (failure, status) in [
            (Failure::QueueFull { limit: 2 }, 429),
            (Failure::WaitedTooLong(Duration::from_secs(1)), 408),
            (Failure::Unavailable("draining".into()), 503),
            (Failure::Stopped, 503),
            (Failure::Aborted, 499),
            (Failure::RanksLost("rank 1 died".into()), 500),
            (Failure::Poisonous("rank 1 died".into()), 500),
            (Failure::TooLarge("too large".into()), 400),
        ] {
            let response = ApiError::from(failure.clone()).error_response();
            assert_eq!(response.status().as_u16(), status, "{failure:?}");
            let retry = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(retry, [429, 503].contains(&status), "{failure:?}");
        }
    }

    #[test]
    fn the_object_is_openai_s() {
        let error = ApiError::invalid("top_p", "must be between 0 and 1");
        let expected = serde_json::json!({"error": {
            "message": "must be between 0 and 1", "type": "invalid_request_error", "param": "top_p", "code": "invalid_value",
        }});
        assert_eq!(error.to_json(), expected);
    }
}

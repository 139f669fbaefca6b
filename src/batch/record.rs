//! One line of the output, in OpenAI's shape.

use serde::Serialize;
use serde_json::Value;

use super::line::{BadLine, Request};
use crate::remote::Answer;

/// The code of a line whose `custom_id` an earlier line has.
pub const DUPLICATE: &str = "duplicate_custom_id";

/// What became of one line.
#[derive(Debug, Serialize)]
pub struct Record {
    /// This record's own id.
    pub id: String,
    /// The user's name for the request.
    pub custom_id: Option<String>,
    /// What the server answered; none where it was not asked.
    pub response: Option<Response>,
    /// Why there is no answer with a status of 200.
    pub error: Option<Failure>,
}

/// The server's answer.
#[derive(Debug, Serialize)]
pub struct Response {
    /// HTTP status.
    pub status_code: u16,
    /// The server's name for the request.
    pub request_id: String,
    /// The answer's JSON; a text where it was none.
    pub body: Value,
}

/// Why there is no answer.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// One word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl Record {
    /// Of a request that was answered, be it with an error.
    pub fn answered(request: Request, answer: Answer) -> Self {
        let error = (answer.status != 200).then(|| failure(&answer));
        let body = serde_json::from_str(&answer.text).unwrap_or(Value::String(answer.text));
        let named = answer.request_id.or_else(|| body["id"].as_str().map(str::to_owned));
        let response = Response { status_code: answer.status, request_id: named.unwrap_or_default(), body };
        Self { id: request.id, custom_id: Some(request.custom_id), response: Some(response), error }
    }

    /// Of a request to which no answer came in time.
    pub fn unanswered(request: Request, message: String) -> Self {
        let error = Failure { code: "request_timeout".into(), message };
        Self { id: request.id, custom_id: Some(request.custom_id), response: None, error: Some(error) }
    }

    /// Of a line that can't be sent.
    pub fn refused(line: BadLine) -> Self {
        let error = Failure { code: line.code.into(), message: line.message };
        Self { id: line.id, custom_id: line.custom_id, response: None, error: Some(error) }
    }

    /// Whether it tells of a failure.
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }
}

fn failure(answer: &Answer) -> Failure {
    let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let code = match &body["error"]["code"] {
        Value::String(code) => code.clone(),
        _ => format!("http_{}", answer.status),
    };
    Failure { code, message: answer.message() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_error_of_the_server_is_both_answer_and_failure() {
        let request =
            Request { id: "batch_req_1".into(), custom_id: "a".into(), path: "/v1/completions", body: "{}".into() };
        let text = r#"{"error": {"message": "no", "code": "too_long"}}"#.to_owned();
        let answer = Answer { status: 400, retry_after_s: None, request_id: Some("r".into()), text };
        let expected = json!({
            "id": "batch_req_1", "custom_id": "a",
            "response": {"status_code": 400, "request_id": "r", "body": {"error": {"message": "no", "code": "too_long"}}},
            "error": {"code": "too_long", "message": "no"},
        });
        assert_eq!(serde_json::to_value(Record::answered(request, answer)).unwrap(), expected);
    }
}

//! One line of the input: a request, or why it is none.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The addresses that a batch may ask.
pub const PATHS: &[&str] = &["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];

/// A line that asks for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The record's id, the same whenever this line of this file is read.
    pub id: String,
    /// The user's name for the request.
    pub custom_id: String,
    /// One of [`PATHS`].
    pub path: &'static str,
    /// The request's body, JSON.
    pub body: String,
}

/// A line that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// As a request's.
    pub id: String,
    /// The user's name, where it could be read.
    pub custom_id: Option<String>,
    /// One word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The id of a line: numbers count from 1.
pub fn record_id(number: u64, line: &[u8]) -> String {
    let digest = Sha256::new().chain_update(number.to_le_bytes()).chain_update(line).finalize();
    let hexadecimal: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("batch_req_{hexadecimal}")
}

/// Reads one line.
pub fn parse(number: u64, line: &[u8]) -> Result<Request, Box<BadLine>> {
    let id = record_id(number, line);
    let bad = |custom_id: Option<&str>, code, message: String| {
        let message = format!("line {number}: {message}");
        Box::new(BadLine { id: id.clone(), custom_id: custom_id.map(str::to_owned), code, message })
    };
    let value: Value = serde_json::from_slice(line).map_err(|error| bad(None, "invalid_json", error.to_string()))?;
    let custom_id = value["custom_id"].as_str().filter(|text| !text.is_empty());
    let wrong = |code, message: &str| bad(custom_id, code, message.to_owned());
    let custom_id =
        custom_id.ok_or_else(|| wrong("missing_custom_id", "`custom_id` must be a text that is not empty"))?;
    match &value["method"] {
        Value::Null => {}
        Value::String(method) if method.eq_ignore_ascii_case("POST") => {}
        _ => return Err(wrong("invalid_method", "`method` must be \"POST\"")),
    }
    let url = value["url"].as_str().ok_or_else(|| wrong("missing_url", "`url` must be a text"))?;
    let path = PATHS.iter().find(|path| **path == url.trim_end_matches('/'));
    let path = path.ok_or_else(|| wrong("invalid_url", &format!("`url` must be one of {}", PATHS.join(", "))))?;
    let body = &value["body"];
    if !body.is_object() {
        return Err(wrong("invalid_body", "`body` must be an object"));
    }
    if body["stream"] == true {
        return Err(wrong("invalid_body", "a batch has no streams: leave `stream` out of `body`"));
    }
    Ok(Request { id: id.clone(), custom_id: custom_id.to_owned(), path, body: body.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_line_is_a_request() {
        let line =
            br#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "n": 1}}"#;
        let request = parse(3, line).unwrap();
        assert_eq!((request.custom_id.as_str(), request.path), ("a", "/v1/completions"));
        assert_eq!(request.body, r#"{"prompt":"x","n":1}"#);
        assert_eq!(request.id, record_id(3, line));
        assert_ne!(request.id, record_id(4, line));
        assert!(parse(1, br#"{"custom_id": "a", "url": "/v1/embeddings", "body": {}}"#).is_ok(), "POST is understood");
    }

    #[test]
    fn a_bad_line_is_told_with_its_number() {
        for (line, custom_id, code) in [
            ("{", None, "invalid_json"),
            ("\u{feff}{}", None, "invalid_json"),
            ("[]", None, "missing_custom_id"),
            (r#"{"custom_id": 7}"#, None, "missing_custom_id"),
            (r#"{"custom_id": ""}"#, None, "missing_custom_id"),
            (r#"{"custom_id": "a", "method": "GET"}"#, Some("a"), "invalid_method"),
            (r#"{"custom_id": "a"}"#, Some("a"), "missing_url"),
            (r#"{"custom_id": "a", "url": "/v1/models"}"#, Some("a"), "invalid_url"),
            (r#"{"custom_id": "a", "url": "/v1/completions"}"#, Some("a"), "invalid_body"),
            (r#"{"custom_id": "a", "url": "/v1/completions", "body": {"stream": true}}"#, Some("a"), "invalid_body"),
        ] {
            let bad = parse(7, line.as_bytes()).unwrap_err();
            assert_eq!((bad.custom_id.as_deref(), bad.code), (custom_id, code), "{line}");
            assert!(bad.message.starts_with("line 7: "), "{line}: {}", bad.message);
        }
        assert_eq!(parse(1, &[0xff, 0xfe]).unwrap_err().code, "invalid_json");
    }
}

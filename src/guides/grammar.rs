//! The forms that an answer can be given.

use serde_json::Value;

/// The form of an answer, as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema (draft 2020-12).
    JsonSchema(Value),
    /// A text that a regular expression matches from its beginning to its end.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar, written for Lark or, with `::=`, in GBNF.
    Text(String),
}

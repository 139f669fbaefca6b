//! The forms that an answer can be given, and how the grammar library is told of them.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::{error::GrammarError, gbnf, schema, structural_tag::StructuralTag};

/// Longest schema, as JSON text, and longest list of choices, in bytes.
const DATA_BYTES_MAX: usize = 512 << 10;
/// Longest grammar or regular expression, in bytes: the library's work grows faster than these.
const TEXT_BYTES_MAX: usize = 32 << 10;

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
    /// Free text in which some beginnings promise a form.
    StructuralTag(StructuralTag),
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whitespace {
    /// As the model likes.
    #[default]
    Any,
    /// None between tokens of JSON.
    Compact,
}

impl Grammar {
    /// The same for the library. Refuses what is too large, or wrong in a way that the library wouldn't tell.
    pub(super) fn for_library(&self, whitespace: Whitespace) -> Result<TopLevelGrammar, GrammarError> {
        let (bytes, limit) = self.size();
        if bytes > limit {
            return Err(GrammarError::refused(format!("it has {bytes} bytes; at most {limit} can be compiled")));
        }
        match self {
            Self::JsonObject => Ok(json_schema(&json!({"type": "object"}), whitespace)),
            Self::JsonSchema(schema) => Ok(json_schema(schema, whitespace)),
            Self::Regex(expression) => regex(expression),
            Self::Choice(texts) => choice(texts),
            Self::Text(text) if gbnf::is_gbnf(text) => Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?)),
            Self::Text(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            Self::StructuralTag(tag) => Ok(TopLevelGrammar::from_lark(tag.to_lark(whitespace)?)),
        }
    }

    /// Its bytes, and the most that are taken.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::JsonObject => (0, DATA_BYTES_MAX),
            Self::JsonSchema(schema) => (schema.to_string().len(), DATA_BYTES_MAX),
            Self::Choice(texts) => (texts.iter().map(|text| text.len() + 1).sum(), DATA_BYTES_MAX),
            Self::Regex(text) | Self::Text(text) => (text.len(), TEXT_BYTES_MAX),
            Self::StructuralTag(tag) => (tag.bytes(), DATA_BYTES_MAX),
        }
    }
}

/// A JSON schema with the library's options.
pub(super) fn json_schema(schema: &Value, whitespace: Whitespace) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(schema::for_library(schema, whitespace))
}

fn regex(expression: &str) -> Result<TopLevelGrammar, GrammarError> {
    let expression = unanchored(expression);
    if expression.is_empty() {
        return Err(GrammarError::refused("the regular expression is empty"));
    }
    if backslashes_at_end(expression) % 2 == 1 {
        return Err(GrammarError::refused("the regular expression ends with a single backslash"));
    }
    Ok(TopLevelGrammar::from_grammar(GrammarWithLexer::from_regex(expression)))
}

/// Without the anchors at its ends: the whole text is matched anyhow, and the library knows none.
fn unanchored(expression: &str) -> &str {
    let expression = expression.strip_prefix('^').unwrap_or(expression);
    match expression.strip_suffix('$') {
        Some(before) if backslashes_at_end(before).is_multiple_of(2) => before,
        _ => expression,
    }
}

fn backslashes_at_end(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

fn choice(texts: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(GrammarError::refused("there must be at least one choice, and none may be empty"));
    }
    let quoted: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", quoted.join(" | "))))
}

/// A text as Lark writes it: as JSON does, but for one character.
pub(super) fn quoted(text: &str) -> String {
    json!(text).to_string().replace('\x7f', "\\u007f")
}

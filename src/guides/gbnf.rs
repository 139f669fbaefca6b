//! GBNF (llama.cpp's, also xgrammar's "EBNF") to Lark.

use super::error::GrammarError;

/// Whether a grammar is written so: Lark has no `::=`.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.contains("::=")
}

/// The same grammar for Lark.
pub(super) fn to_lark(_text: &str) -> Result<String, GrammarError> {
    Err(GrammarError::refused("GBNF"))
}

//! Vocabularies of every common kind of file, made into tokenizers.
//!
//! `tokenizer.json` needs nothing of this: it is the tokenizer library's own form. What is here reads the others and
//! builds what that form would have said: the model with its merges, what happens to a text before it and to tokens
//! after it, and the tokens that a folder adds.

mod added_tokens;
mod families;
mod folder;
mod merges;
mod model_file;
mod protobuf;
mod ranks;
mod sentence_piece;

#[cfg(test)]
mod golden;

pub(super) use folder::build;
pub(super) use merges::merges_of_scores;
pub(super) use sentence_piece::{Algorithm, Entry, Kind, NEVER, Prefix, SentencePieces, Spaces};

//! The bodies of requests, as far as they can be told by types and bounds. Nothing is ever read into these structs:
//! endpoints take fields one by one ([`Fields`](crate::api::fields::Fields)), so that every fault can name its field.
#![allow(dead_code, clippy::large_enum_variant, reason = "they are described, not made")]

mod chat;
mod completion;
mod embeddings;
mod generation;
mod messages;
mod names;
mod responses;
mod small;
mod values;

pub use self::{
    chat::ChatRequest,
    completion::CompletionRequest,
    embeddings::EmbeddingsRequest,
    messages::{CountTokensRequest, MessagesRequest},
    names::field_names,
    responses::ResponsesRequest,
    small::{AbortRequest, DetokenizeRequest, TokenizeRequest},
};

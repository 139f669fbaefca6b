//! Answers of the dialects that are written block by block and item by item, not as structs.
#![allow(dead_code, reason = "they are described, not made")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A message in Anthropic's form.
#[derive(Serialize, ToSchema)]
pub struct AnthropicMessage {
    #[schema(pattern = "^msg_")]
    id: String,
    /// `message`.
    r#type: String,
    /// `assistant`.
    role: String,
    model: String,
    /// Blocks: `thinking`, `text`, `tool_use`.
    content: Vec<BTreeMap<String, Value>>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    stop_reason: Option<String>,
    stop_sequence: Option<String>,
    usage: AnthropicUsage,
}

/// What it used; cached tokens aren't counted among the others.
#[derive(Serialize, ToSchema)]
struct AnthropicUsage {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

/// How long a conversation is.
#[derive(Serialize, ToSchema)]
pub struct TokenCount {
    input_tokens: u64,
}

/// An event of a stream.
#[derive(Serialize, ToSchema)]
pub struct NamedEvent {
    /// What happened; also in the line `event:`.
    r#type: String,
}

/// A response. It repeats the request beside these.
#[derive(Serialize, ToSchema)]
pub struct Response {
    #[schema(pattern = "^resp_")]
    id: String,
    /// `response`.
    object: String,
    /// Seconds since 1970.
    created_at: u64,
    model: String,
    /// `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`.
    status: String,
    /// Items: `reasoning`, `message`, `function_call`.
    output: Vec<BTreeMap<String, Value>>,
    /// Why it failed.
    error: Option<BTreeMap<String, Value>>,
    /// Why it is incomplete.
    incomplete_details: Option<BTreeMap<String, Value>>,
    usage: Option<ResponseUsage>,
    tools: Vec<BTreeMap<String, Value>>,
    metadata: BTreeMap<String, String>,
    background: bool,
    store: bool,
}

/// What it used.
#[derive(Serialize, ToSchema)]
struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: BTreeMap<String, u64>,
    output_tokens: u64,
    output_tokens_details: BTreeMap<String, u64>,
    total_tokens: u64,
}

/// That it is gone.
#[derive(Serialize, ToSchema)]
pub struct DeletedResponse {
    id: String,
    /// `response`.
    object: String,
    deleted: bool,
}

/// A page of a response's input.
#[derive(Serialize, ToSchema)]
pub struct InputItems {
    /// `list`.
    object: String,
    data: Vec<BTreeMap<String, Value>>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

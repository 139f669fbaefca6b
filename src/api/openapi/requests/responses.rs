//! OpenAI's Responses.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::values::ItemsOrText;

/// Something to answer. Fields that chats have beyond these may stand beside them.
#[derive(Serialize, ToSchema)]
pub struct ResponsesRequest {
    /// A text, or items: messages, calls and what they gave, reasoning.
    input: Option<ItemsOrText>,
    /// What stands above the conversation.
    instructions: Option<String>,
    /// The response that this goes on with.
    previous_response_id: Option<String>,
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// Most tokens to generate; cut to the context.
    #[schema(minimum = 1, example = 16)]
    max_output_tokens: Option<u32>,
    /// Answer by server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    /// Whether it can be looked up later.
    #[schema(default = true)]
    store: Option<bool>,
    /// Answer at once and compute later; needs `store`.
    #[schema(default = false)]
    background: Option<bool>,
    /// Below 1e-5 is greedy. The model's own default, else 1.
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    /// Below 1e-5 is greedy.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// `message.output_text.logprobs`, `reasoning.encrypted_content`.
    include: Option<Vec<String>>,
    /// So many alternatives of each token, where log-probabilities are included.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u32>,
    /// What can be called; only functions are told to the model.
    tools: Option<Vec<BTreeMap<String, Value>>>,
    /// Which tools may be called: `none`, `auto`, `required`, or one that is named.
    tool_choice: Option<Value>,
    /// Whether several tools may be called at once.
    #[schema(default = true)]
    parallel_tool_calls: Option<bool>,
    /// `format`: `{"type": "text"}`, `json_object` or `json_schema`.
    text: Option<BTreeMap<String, Value>>,
    /// `effort`: `none` turns thinking off, others are told to the template.
    reasoning: Option<BTreeMap<String, Value>>,
    /// Your own texts, in the response again.
    metadata: Option<BTreeMap<String, String>>,
    /// `auto` or `disabled`; nothing is ever left out.
    truncation: Option<String>,
    /// In the response again.
    max_tool_calls: Option<i64>,
    /// In the response again.
    prompt_cache_key: Option<String>,
    /// In the response again.
    safety_identifier: Option<String>,
    /// Refused.
    conversation: Option<Value>,
    /// Refused.
    prompt: Option<Value>,
    /// The end user, in the response again.
    user: Option<String>,
}

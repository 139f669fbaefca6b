//! Anthropic's Messages.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::values::{BlocksOrText, MessageRole};

/// A conversation to go on with, in Anthropic's form. Fields that chats have beyond these may stand beside them.
#[derive(Serialize, ToSchema)]
pub struct MessagesRequest {
    #[serde(flatten)]
    conversation: CountTokensRequest,
    /// Most tokens to generate; cut to the context.
    #[schema(minimum = 1, example = 16)]
    max_tokens: u32,
    /// Texts that end the answer, at most 16.
    #[schema(max_items = 16)]
    stop_sequences: Option<Vec<String>>,
    /// Answer by server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    /// Below 1e-5 is greedy. The model's own default, else 1.
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    /// Below 1e-5 is greedy.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// 0 and -1 are off.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Variables of the template; `enable_thinking` among them counts where `thinking` is absent.
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
    /// Without effect.
    metadata: Option<BTreeMap<String, Value>>,
}

/// A conversation to count, in Anthropic's form.
#[derive(Serialize, ToSchema)]
pub struct CountTokensRequest {
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// The conversation.
    #[schema(min_items = 1)]
    messages: Vec<BlockMessage>,
    /// What stands above it: a text, or blocks of text.
    system: Option<BlocksOrText>,
    /// What can be called: tools with a `name` and an `input_schema`.
    tools: Option<Vec<BTreeMap<String, Value>>>,
    /// `{"type": "auto"}`, `any`, `none`, or `tool` with its `name`.
    tool_choice: Option<BTreeMap<String, Value>>,
    /// `{"type": "enabled", "budget_tokens": N}`, `adaptive`, or `disabled`, as it is without a word.
    thinking: Option<BTreeMap<String, Value>>,
    /// `effort`, and `format`: `{"type": "json_schema", "schema": …}`.
    output_config: Option<BTreeMap<String, Value>>,
}

/// What one side said.
#[derive(Serialize, ToSchema)]
struct BlockMessage {
    role: MessageRole,
    /// A text, or blocks: `text`, `tool_use`, `tool_result`, `thinking`.
    content: BlocksOrText,
}

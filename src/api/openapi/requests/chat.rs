//! Chats.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::generation::GenerationFields;

/// A conversation to go on with.
#[derive(Serialize, ToSchema)]
pub struct ChatRequest {
    #[serde(flatten)]
    generation: GenerationFields,
    #[serde(flatten)]
    conversation: ConversationFields,
    /// Log-probabilities of the answer's tokens. Needs --enable-logprob.
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// So many alternatives of each token; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u32>,
    /// Any of these fields, counting less than at the top.
    metadata: Option<BTreeMap<String, Value>>,
}

/// A conversation, and how it is written.
#[derive(Serialize, ToSchema)]
pub struct ConversationFields {
    /// The conversation.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// What can be called, told to the chat template.
    tools: Option<Vec<Tool>>,
    /// Texts to answer from, told to the chat template.
    documents: Option<Vec<Value>>,
    /// A template instead of the model's.
    chat_template: Option<String>,
    /// Further variables of the template.
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
    /// Whether the model is to think first; told to the chat template.
    #[schema(default = true)]
    enable_thinking: Option<bool>,
    /// How much to think; told to the chat template.
    reasoning_effort: Option<String>,
    /// Which tools may be called: `none`, `auto`, `required`, or one that is named.
    tool_choice: Option<Value>,
    /// Whether several tools may be called at once.
    #[schema(default = true)]
    parallel_tool_calls: Option<bool>,
    /// The first message's content is the prompt.
    #[schema(default = false)]
    disable_chat_template: Option<bool>,
    /// Token ids, used instead of `messages`.
    #[schema(min_items = 1)]
    prompt_token_ids: Option<Vec<u32>>,
    /// Keep so many of the prompt's tokens, the last; -1 is as many as leave room for one more.
    #[schema(minimum = -1)]
    truncate_prompt_tokens: Option<i64>,
    /// End with the beginning of an answer.
    #[schema(default = true)]
    add_generation_prompt: Option<bool>,
    /// Go on with the last message; needs `add_generation_prompt: false`.
    #[schema(default = false)]
    continue_final_message: Option<bool>,
}

/// One message.
#[derive(Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`; what else there is, is up to the model's template.
    #[schema(example = "user")]
    role: String,
    /// What was said; null where only tools were called.
    content: Option<MessageContent>,
    /// Calls that the assistant made.
    tool_calls: Option<Vec<Value>>,
    /// Which call this answers.
    tool_call_id: Option<String>,
}

/// What was said.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum MessageContent {
    /// As one text.
    Text(String),
    /// In parts.
    Parts(Vec<TextPart>),
}

/// A part of what was said.
#[derive(Serialize, ToSchema)]
pub struct TextPart {
    /// `text`.
    #[schema(pattern = "^text$")]
    r#type: String,
    /// The text.
    text: String,
}

/// What can be called.
#[derive(Serialize, ToSchema)]
pub struct Tool {
    /// `function`.
    #[schema(pattern = "^function$")]
    r#type: String,
    /// The function.
    function: Function,
}

/// A function that can be called.
#[derive(Serialize, ToSchema)]
pub struct Function {
    /// Its name.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    name: String,
    /// What it does.
    description: Option<String>,
    /// The JSON schema of its arguments.
    parameters: Option<BTreeMap<String, Value>>,
}

//! Requests of few fields.

use serde::Serialize;
use utoipa::ToSchema;

use super::chat::ConversationFields;

/// A text or a conversation.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokenizeRequest {
    /// A text.
    Text(TokenizedText),
    /// A conversation.
    Conversation(TokenizedConversation),
}

/// A text to be tokenized.
#[derive(Serialize, ToSchema)]
pub struct TokenizedText {
    /// The text.
    prompt: String,
    /// Put around it what the model expects there.
    #[schema(default = true)]
    add_special_tokens: Option<bool>,
    #[serde(flatten)]
    fields: TokenizeFields,
}

/// A conversation to be tokenized.
#[derive(Serialize, ToSchema)]
pub struct TokenizedConversation {
    #[serde(flatten)]
    conversation: ConversationFields,
    /// Put more around it than the chat template does.
    #[schema(default = false)]
    add_special_tokens: Option<bool>,
    #[serde(flatten)]
    fields: TokenizeFields,
}

/// What either may have.
#[derive(Serialize, ToSchema)]
pub struct TokenizeFields {
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// Tell how the vocabulary writes the tokens.
    #[schema(default = false)]
    return_token_strs: Option<bool>,
}

/// Tokens to be turned into a text.
#[derive(Serialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// Token ids.
    tokens: Vec<u32>,
}

/// Which requests to abort; one of both is needed.
#[derive(Serialize, ToSchema)]
pub struct AbortRequest {
    /// All.
    #[schema(default = false)]
    abort_all: Option<bool>,
    /// Those of these ids: the answer's (`chatcmpl-…`, with or without that), the request's own, or its X-Request-Id.
    #[schema(max_items = 1024)]
    req_ids: Option<Vec<String>>,
}

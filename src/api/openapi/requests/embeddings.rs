//! Embeddings.

use serde::Serialize;
use utoipa::ToSchema;

use super::{chat::ConversationFields, values::TextsOrTokens};

/// Texts, or a conversation, to be embedded.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingsRequest {
    /// Texts.
    Texts(EmbeddedTexts),
    /// A conversation.
    Conversation(EmbeddedConversation),
}

/// Texts to be embedded.
#[derive(Serialize, ToSchema)]
pub struct EmbeddedTexts {
    /// One text, or several.
    input: TextsOrTokens,
    /// Keep so many tokens of each text, the first; -1 is as many as fit.
    #[schema(minimum = -1)]
    truncate_prompt_tokens: Option<i32>,
    #[serde(flatten)]
    fields: EmbeddingsFields,
}

/// A conversation to be embedded.
#[derive(Serialize, ToSchema)]
pub struct EmbeddedConversation {
    #[serde(flatten)]
    conversation: ConversationFields,
    #[serde(flatten)]
    fields: EmbeddingsFields,
}

/// How it is embedded.
#[derive(Serialize, ToSchema)]
pub struct EmbeddingsFields {
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// `float`, or `base64` of little-endian f32.
    #[schema(default = "float", pattern = "^(float|base64)$")]
    encoding_format: Option<String>,
    /// So many numbers of each vector; at most the model's hidden size.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// Scale vectors to the length 1.
    #[schema(default = true)]
    normalize: Option<bool>,
    /// `mean` over all tokens, or that of the `last`; else as --pooling says.
    #[schema(pattern = "^(mean|last)$")]
    pooling: Option<String>,
    /// The end user, for the answer's id.
    user: Option<String>,
    /// The answer's id, but for its prefix.
    request_id: Option<String>,
}

//! Values that have more than one form.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// One text, or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrTexts {
    /// One.
    Text(String),
    /// Several.
    Texts(Vec<String>),
}

/// A text, or blocks.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum BlocksOrText {
    /// A text.
    Text(String),
    /// Blocks, each with its `type`.
    Blocks(Vec<BTreeMap<String, Value>>),
}

/// A text, or items.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum ItemsOrText {
    /// A text.
    Text(String),
    /// Items, each with its `type`, or a message's `role`.
    Items(Vec<BTreeMap<String, Value>>),
}

/// Who speaks in a message of blocks.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageRole {
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// Nobody: it is said to the model.
    System,
}

/// A text, several texts, a text's token ids, or those of several texts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextsOrTokens {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Texts),
    /// Token ids of one text.
    Tokens(Tokens),
    /// Token ids of several.
    TokenLists(TokenLists),
}

/// Token ids of one text, or of several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokensOrLists {
    /// Of one.
    Tokens(Tokens),
    /// Of several.
    Lists(TokenLists),
}

/// At least one text.
#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
pub struct Texts(Vec<String>);

/// At least one token id.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenIds, min_items = 1)]
pub struct Tokens(Vec<u32>);

/// At least one list of token ids.
#[derive(Serialize, ToSchema)]
#[schema(min_items = 1)]
pub struct TokenLists(Vec<Vec<u32>>);

/// What streams tell beside the answer.
#[derive(Serialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk tells the usage; true once this object is given.
    include_usage: Option<bool>,
    /// Every chunk tells it.
    #[schema(default = false)]
    continuous_usage_stats: Option<bool>,
}

//! Completions.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    generation::GenerationFields,
    values::{TextsOrTokens, TokensOrLists},
};

/// Texts to go on with.
#[derive(Serialize, ToSchema)]
pub struct CompletionRequest {
    #[serde(flatten)]
    generation: GenerationFields,
    /// One prompt, or several: each has its own choices.
    prompt: TextsOrTokens,
    /// Used instead of `prompt`.
    prompt_token_ids: Option<TokensOrLists>,
    /// Log-probabilities, with so many alternatives of each token. Needs --enable-logprob.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<u32>,
    /// The prompt stands before the answer.
    #[schema(default = false)]
    echo: Option<bool>,
    /// Of so many sequences the `n` best are answered.
    #[schema(minimum = 1, maximum = 128)]
    best_of: Option<u32>,
    /// Keep so many of the prompt's tokens, the last; -1 is as many as leave room for one more.
    #[schema(minimum = -1)]
    truncate_prompt_tokens: Option<i64>,
    /// FastDeploy's: fields that count where the body is silent. A text is refused.
    suffix: Option<BTreeMap<String, Value>>,
}

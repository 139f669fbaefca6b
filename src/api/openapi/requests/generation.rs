//! What chats and completions have in common.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::values::{StreamOptions, TextOrTexts, TokensOrLists};

/// How an answer is to be generated. `null` is the same as absent.
#[derive(Serialize, ToSchema)]
pub struct GenerationFields {
    /// The model; with --served-model-name it must be that name, or `default`.
    #[schema(example = "default")]
    model: Option<String>,
    /// Of the prompt, only this many of its last tokens are used; -1: as many as leave room for one more. Not 0.
    #[schema(minimum = -1)]
    truncate_prompt_tokens: Option<i64>,
    /// Answer by server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    /// Needs `stream`.
    stream_options: Option<StreamOptions>,
    /// Tokens of a chunk in a stream; below 1 is 1.
    #[schema(default = 1)]
    max_streaming_response_tokens: Option<i64>,
    /// Most tokens to generate; cut to the context.
    #[schema(minimum = 1, example = 16)]
    max_tokens: Option<u32>,
    /// The same; counts more.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// Tokens before a stop may end the text; at most `max_tokens`.
    #[schema(default = 0)]
    min_tokens: Option<u32>,
    /// Below 1e-5 is greedy. The model's own default, else 1.
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    /// Below 1e-5 is greedy.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// 0 and -1 are off.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Tokens less likely than this share of the likeliest are left out.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    /// Above 1 punishes tokens that were there, in prompt and answer.
    #[schema(exclusive_minimum = 0)]
    repetition_penalty: Option<f32>,
    /// Punishes tokens that are in the answer.
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    /// Punishes tokens as often as they are in the answer.
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// The same seed gives the same text; sequence i of `n` uses `seed + i`.
    #[schema(minimum = 0, maximum = 922337203685477580_i64)]
    seed: Option<i64>,
    /// Sequences of each prompt.
    #[schema(default = 1, minimum = 1, maximum = 128)]
    n: Option<u32>,
    /// Texts that end the answer, at most 16.
    stop: Option<TextOrTexts>,
    /// Tokens that end the answer.
    #[schema(max_items = 1024)]
    stop_token_ids: Option<Vec<u32>>,
    /// Whether those texts and tokens show in the answer.
    #[schema(default = false)]
    include_stop_str_in_output: Option<bool>,
    /// Go on where the model would end.
    #[schema(default = false)]
    ignore_eos: Option<bool>,
    /// Leave special tokens out of the text.
    #[schema(default = true)]
    skip_special_tokens: Option<bool>,
    /// Token ids beside the text.
    #[schema(default = false)]
    return_token_ids: Option<bool>,
    /// What is added to tokens' logits, -100 to 100, by token id.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Texts that must not come.
    bad_words: Option<Vec<String>>,
    /// Tokens that must not come, or lists of tokens that must not come one after the other.
    bad_words_token_ids: Option<TokensOrLists>,
    /// Log-probabilities of the prompt's tokens, with so many alternatives. Needs --enable-logprob.
    #[schema(minimum = 0, maximum = 20)]
    prompt_logprobs: Option<i64>,
    /// Log-probabilities after the temperature.
    #[schema(default = false)]
    temp_scaled_logprobs: Option<bool>,
    /// Log-probabilities after `top_p`.
    #[schema(default = false)]
    top_p_normalized_logprobs: Option<bool>,
    /// Whether log-probabilities name tokens by their texts rather than their ids.
    #[schema(default = true)]
    include_logprobs_decode_token: Option<bool>,
    /// Whether they are named by `token_id:N` instead.
    #[schema(default = false)]
    return_tokens_as_token_ids: Option<bool>,
    /// Most tokens of reasoning, where the model thinks.
    #[schema(minimum = 0)]
    reasoning_max_tokens: Option<u32>,
    /// The answer's form: `{"type": "text"}`, `json_object`, `json_schema` or `structural_tag`.
    response_format: Option<BTreeMap<String, Value>>,
    /// The answer is JSON of this schema.
    guided_json: Option<Value>,
    /// The answer is some JSON object.
    guided_json_object: Option<bool>,
    /// The answer matches this regular expression.
    guided_regex: Option<String>,
    /// The answer is one of these.
    guided_choice: Option<Vec<String>>,
    /// The answer is of this grammar (Lark or EBNF).
    guided_grammar: Option<String>,
    /// White space in JSON, as a regular expression.
    guided_whitespace_pattern: Option<String>,
    /// Parts of the answer, between tags, have a form.
    structural_tag: Option<Value>,
    /// vLLM's object for all of these.
    structured_outputs: Option<BTreeMap<String, Value>>,
    /// Smaller goes first.
    #[schema(default = 0)]
    priority: Option<i64>,
    /// Cached prefixes are shared among requests of the same salt only.
    cache_salt: Option<String>,
    /// The end user, for the answer's id.
    user: Option<String>,
    /// The answer's id, but for its prefix.
    request_id: Option<String>,
}

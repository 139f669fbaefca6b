//! Log-probabilities in the two forms of the two endpoints.

use serde::Serialize;
use serde_json::{Map, Value};
use workers::link::report::Logprobs;

use super::choice::Piece;
use crate::text::Tokenizer;

/// What is told of a probability of zero: JSON has no infinity.
const LOWEST: f32 = -9999.0;

/// A chat's form: a list with one entry per token.
#[derive(Debug, Serialize)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
}

/// One token of a chat.
#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    sampled: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

/// A token's text and log-probability.
#[derive(Debug, Serialize)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// A completion's form: lists side by side.
#[derive(Debug, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

/// A chat's log-probabilities of these pieces; none where they weren't asked for.
pub fn of_chat(pieces: &[Piece], tokenizer: &Tokenizer) -> Option<ChatLogprobs> {
    let token = |piece: &Piece| {
        let Logprobs { sampled, top, .. } = piece.logprobs.as_ref()?;
        let top_logprobs = top.iter().map(|&(token, logprob)| entry(token, logprob, tokenizer)).collect();
        Some(ChatToken { sampled: entry(piece.token, *sampled, tokenizer), top_logprobs })
    };
    let content = pieces.iter().map(token).collect::<Option<_>>()?;
    Some(ChatLogprobs { content })
}

/// A completion's log-probabilities of these pieces; `offset` is the length of the text before them, in characters,
/// and grows by that of the tokens.
pub fn of_completion(pieces: &[Piece], tokenizer: &Tokenizer, offset: &mut usize) -> Option<CompletionLogprobs> {
    let mut lists = CompletionLogprobs::default();
    for piece in pieces {
        let Logprobs { sampled, top, .. } = piece.logprobs.as_ref()?;
        let text = shown(piece.token, tokenizer);
        let all = [(piece.token, *sampled)].into_iter().chain(top.iter().copied());
        let entry = |(token, logprob): (u32, f32)| (shown(token, tokenizer), logprob.max(LOWEST).into());
        lists.top_logprobs.push(all.map(entry).collect());
        lists.token_logprobs.push(sampled.max(LOWEST));
        lists.text_offset.push(*offset);
        *offset += text.chars().count();
        lists.tokens.push(text);
    }
    Some(lists)
}

fn entry(token: u32, logprob: f32, tokenizer: &Tokenizer) -> TokenLogprob {
    let bytes = bytes(token, tokenizer).to_vec();
    TokenLogprob { token: shown(token, tokenizer), logprob: logprob.max(LOWEST), bytes }
}

/// A token as text; one that is only a part of a character as `bytes:\xNN…`.
fn shown(token: u32, tokenizer: &Tokenizer) -> String {
    let bytes = bytes(token, tokenizer);
    std::str::from_utf8(bytes).map_or_else(|_| escaped(bytes), str::to_owned)
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("bytes:"), |text, byte| text + &format!("\\x{byte:02x}"))
}

/// A token that the tokenizer doesn't know (padding of the vocabulary) has no bytes.
fn bytes(token: u32, tokenizer: &Tokenizer) -> &[u8] {
    tokenizer.token_bytes(token).unwrap_or_default()
}

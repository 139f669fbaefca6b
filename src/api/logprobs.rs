//! Log-probabilities in the two forms of the two endpoints.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::choice::Piece;
use crate::text::Tokenizer;

/// What is told of a probability of zero: JSON has no infinity.
pub const LOWEST: f32 = -9999.0;

/// How tokens are named beside their log-probabilities.
#[derive(Debug, Clone)]
pub struct TokenNames {
    tokenizer: Arc<Tokenizer>,
    as_ids: bool,
}

impl TokenNames {
    /// By their texts, or `as_ids`.
    pub fn new(tokenizer: Arc<Tokenizer>, as_ids: bool) -> Self {
        Self { tokenizer, as_ids }
    }

    /// A token's name: `token_id:N`, or its text.
    fn name(&self, token: u32) -> String {
        if self.as_ids { format!("token_id:{token}") } else { self.text(token) }
    }

    /// A token as text; one that is only a part of a character as `bytes:\xNN…`.
    pub fn text(&self, token: u32) -> String {
        let bytes = self.bytes(token);
        std::str::from_utf8(bytes).map_or_else(|_| escaped(bytes), str::to_owned)
    }

    /// A token that the tokenizer doesn't know (padding of the vocabulary) has no bytes.
    fn bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("bytes:"), |text, byte| text + &format!("\\x{byte:02x}"))
}

/// A chat's form: a list with one entry per token.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
}

/// One token of a chat.
#[derive(Debug, Serialize, ToSchema)]
struct ChatToken {
    #[serde(flatten)]
    sampled: TokenLogprob,
    top_logprobs: Vec<TokenLogprob>,
}

/// A token's text and log-probability.
#[derive(Debug, Serialize, ToSchema)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// A chat's log-probabilities of these pieces; none where they weren't asked for.
pub fn of_chat(pieces: &[Piece], names: &TokenNames) -> Option<ChatLogprobs> {
    let entry = |token: u32, logprob: f32| TokenLogprob {
        token: names.name(token),
        logprob: logprob.max(LOWEST),
        bytes: names.bytes(token).to_vec(),
    };
    let token = |piece: &Piece| {
        let Logprobs { sampled, top, .. } = piece.logprobs.as_ref()?;
        let top_logprobs = top.iter().map(|&(token, logprob)| entry(token, logprob)).collect();
        Some(ChatToken { sampled: entry(piece.token, *sampled), top_logprobs })
    };
    let content = pieces.iter().map(token).collect::<Option<_>>()?;
    Some(ChatLogprobs { content })
}

/// A completion's form: lists side by side. The first token of a prompt has null in two of them.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

/// A completion's log-probabilities of these pieces; `offset` is the length of the text before them, in characters,
/// and grows by that of the tokens.
pub fn of_completion(pieces: &[Piece], names: &TokenNames, offset: &mut usize) -> Option<CompletionLogprobs> {
    let mut lists = CompletionLogprobs::default();
    for piece in pieces {
        let logprobs = piece.logprobs.as_ref()?;
        lists.push(piece.token, Some(logprobs), usize::MAX, names, *offset);
        *offset += names.text(piece.token).chars().count();
    }
    Some(lists)
}

/// A repeated prompt's log-probabilities. Offsets are those of the tokens in `text`, in characters; a token that isn't
/// there (a beginning-of-sequence token, for instance) takes no room.
pub fn of_echo<'a>(
    prompt: impl Iterator<Item = (u32, Option<&'a Logprobs>)>,
    alternatives: u32,
    names: &TokenNames,
    text: &str,
) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    let mut place = Place { text: text.as_bytes(), offset: 0 };
    for (token, logprobs) in prompt {
        lists.push(token, logprobs, alternatives as usize, names, place.offset);
        place.pass(names.bytes(token));
    }
    lists
}

impl CompletionLogprobs {
    fn push(
        &mut self,
        token: u32,
        logprobs: Option<&Logprobs>,
        alternatives: usize,
        names: &TokenNames,
        offset: usize,
    ) {
        self.tokens.push(names.name(token));
        self.token_logprobs.push(logprobs.map(|logprobs| logprobs.sampled.max(LOWEST)));
        self.top_logprobs.push(logprobs.map(|Logprobs { sampled, top, .. }| {
            let mut map = Map::new();
            for (token, logprob) in [(token, *sampled)].into_iter().chain(top.iter().copied().take(alternatives)) {
                // Where two tokens have one name, the likelier counts.
                map.entry(names.name(token)).or_insert_with(|| logprob.max(LOWEST).into());
            }
            map
        }));
        self.text_offset.push(offset);
    }

    /// These, and then those.
    pub fn followed_by(mut self, more: Option<Self>) -> Self {
        let more = more.unwrap_or_default();
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
        self
    }
}

/// A walk through a text by the bytes of its tokens.
struct Place<'a> {
    /// What is still ahead.
    text: &'a [u8],
    /// Characters that begin before here.
    offset: usize,
}

impl Place<'_> {
    fn pass(&mut self, token: &[u8]) {
        // Some vocabularies put a blank before the first word.
        let passed = [token, token.strip_prefix(b" ").unwrap_or_default()]
            .into_iter()
            .find(|bytes| !bytes.is_empty() && self.text.starts_with(bytes))
            .map_or(0, <[u8]>::len);
        let (before, ahead) = self.text.split_at(passed);
        self.offset += before.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        self.text = ahead;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters_and_skip_what_is_not_in_the_text() {
        let mut place = Place { text: "Öl is 油".as_bytes(), offset: 0 };
        let tokens: [(&[u8], usize); 7] =
            [(b"<s>", 0), (" Öl".as_bytes(), 2), (b" is", 5), (b" ", 6), (b"\xe6", 7), (b"\xb2\xb9", 7), (b"x", 7)];
        for (token, after) in tokens {
            place.pass(token);
            assert_eq!(place.offset, after, "{token:?}");
        }
    }
}

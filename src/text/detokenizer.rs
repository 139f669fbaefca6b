//! Tokens to text, one token at a time.

use std::{borrow::Borrow, sync::Arc};

use super::{
    Tokenizer,
    pieces::{Joining, Piece},
};

/// Turns a growing list of tokens into a growing text. Each token costs what its own text costs, however long the
/// sequence is.
///
/// What is handed out is final: a character split over tokens is held back until it is whole. All that was handed
/// out, [`finish`](Self::finish) included, is the text of the tokens as the model's own decoder writes it; only a
/// character that is cut at the very end is one U+FFFD, however many of its bytes there were.
#[derive(Debug)]
pub struct Detokenizer<T: Borrow<Tokenizer> = Arc<Tokenizer>> {
    tokenizer: T,
    skip_special_tokens: bool,
    /// Special tokens that aren't skipped all the same.
    kept: Vec<u32>,
    held: Held,
}

/// What has been pushed and not handed out.
#[derive(Debug)]
enum Held {
    /// The beginning of a character: at most three bytes.
    Bytes(Vec<u8>),
    /// A run of byte tokens. One wrong byte turns the whole run into U+FFFD, so nothing of it is final before it ends.
    Run { bytes: Vec<u8>, strip_left: usize },
    /// Nothing, but whether a token has been seen.
    Word { is_first: bool },
    /// The tokens that the decoder must see together; the first `shown` of them are handed out already.
    Window { tokens: Vec<u32>, shown: usize },
}

/// A decoder that isn't known sees this many tokens of context, and a text is held back for no more tokens than these.
const WINDOW_TOKENS: usize = 16;

impl<T: Borrow<Tokenizer>> Detokenizer<T> {
    /// A detokenizer at the beginning of a text.
    pub fn new(tokenizer: T, skip_special_tokens: bool) -> Self {
        let held = match tokenizer.borrow().pieces().joining {
            Joining::Bytes => Held::Bytes(Vec::new()),
            Joining::ByteFallback { strip_left } => Held::Run { bytes: Vec::new(), strip_left },
            Joining::Words { .. } => Held::Word { is_first: true },
            Joining::Opaque => Held::Window { tokens: Vec::new(), shown: 0 },
        };
        Self { tokenizer, skip_special_tokens, kept: Vec::new(), held }
    }

    /// The same, with those special tokens in the text that `needed` says, by their own text.
    pub fn keeping(mut self, needed: impl Fn(&str) -> bool) -> Self {
        if self.skip_special_tokens {
            let specials = self.tokenizer.borrow().special_tokens();
            self.kept = specials.iter().filter(|(_, text)| needed(text)).map(|(id, _)| *id).collect();
        }
        self
    }

    /// Takes the next token; returns the text that is final now and wasn't before, often nothing.
    pub fn push(&mut self, token: u32) -> String {
        let tokenizer = self.tokenizer.borrow();
        let Some(piece) = tokenizer.pieces().get(token) else { return String::new() };
        if piece.special && self.skip_special_tokens && !self.kept.contains(&token) {
            return String::new();
        }
        match &mut self.held {
            Held::Bytes(pending) => push_bytes(pending, &piece.bytes),
            Held::Run { bytes, strip_left } => push_piece(bytes, strip_left, piece),
            Held::Word { is_first } => {
                let first = if std::mem::take(is_first) { piece.first.as_deref() } else { None };
                first.map_or_else(|| String::from_utf8_lossy(&piece.bytes).into_owned(), str::to_string)
            }
            Held::Window { tokens, shown } => {
                tokens.push(token);
                push_window(tokenizer, tokens, shown)
            }
        }
    }

    /// The rest of the text when no token follows.
    pub fn finish(&mut self) -> String {
        match &mut self.held {
            Held::Bytes(pending) => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
            Held::Run { bytes, strip_left } => strip(&last_run(&std::mem::take(bytes)), strip_left),
            Held::Word { .. } => String::new(),
            Held::Window { tokens, shown } => {
                let text = window_rest(self.tokenizer.borrow(), tokens, *shown).unwrap_or_default();
                *shown = tokens.len();
                text
            }
        }
    }
}

/// UTF-8 with U+FFFD for what isn't, holding back the beginning of a character at the end.
fn push_bytes(pending: &mut Vec<u8>, bytes: &[u8]) -> String {
    pending.extend_from_slice(bytes);
    let held = unfinished_bytes(pending);
    let rest = pending.split_off(pending.len() - held);
    let text = String::from_utf8_lossy(pending).into_owned();
    *pending = rest;
    text
}

/// How many bytes at the end are the beginning of a character whose rest is missing: 0 to 3.
fn unfinished_bytes(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    }
}

fn push_piece(run: &mut Vec<u8>, strip_left: &mut usize, piece: &Piece) -> String {
    if piece.byte_fallback {
        run.extend_from_slice(&piece.bytes);
        return String::new();
    }
    let mut text = ended_run(&std::mem::take(run));
    text.push_str(&String::from_utf8_lossy(&piece.bytes));
    strip(&text, strip_left)
}

/// A run of byte tokens with a token after it: either all of it is UTF-8, or each byte shows as U+FFFD.
fn ended_run(run: &[u8]) -> String {
    match std::str::from_utf8(run) {
        Ok(text) => text.into(),
        Err(_) => "\u{fffd}".repeat(run.len()),
    }
}

/// A run at the end of the text: as above, but where only its last character is cut, the others are kept.
fn last_run(run: &[u8]) -> String {
    let whole = run.len() - unfinished_bytes(run);
    match std::str::from_utf8(&run[..whole]) {
        Ok(text) if whole < run.len() => format!("{text}\u{fffd}"),
        _ => ended_run(run),
    }
}

/// Takes up to `strip_left` spaces from the beginning of the whole text.
fn strip(text: &str, strip_left: &mut usize) -> String {
    let spaces = text.bytes().take(*strip_left).take_while(|&byte| byte == b' ').count();
    *strip_left = if spaces == text.len() { *strip_left - spaces } else { 0 };
    text[spaces..].into()
}

fn push_window(tokenizer: &Tokenizer, tokens: &mut Vec<u32>, shown: &mut usize) -> String {
    let Some(text) = window_rest(tokenizer, tokens, *shown) else { return String::new() };
    let unfinished = text.ends_with('\u{fffd}') && tokens.len() - *shown < WINDOW_TOKENS;
    if unfinished {
        return String::new();
    }
    *shown = tokens.len();
    if *shown > 2 * WINDOW_TOKENS {
        tokens.drain(..*shown - WINDOW_TOKENS);
        *shown = WINDOW_TOKENS;
    }
    text
}

/// What the tokens after the first `shown` add to the text; none where the decoder changed what was there before.
fn window_rest(tokenizer: &Tokenizer, tokens: &[u32], shown: usize) -> Option<String> {
    let decode = |tokens| tokenizer.inner().decode(tokens, false).unwrap_or_default();
    decode(tokens).strip_prefix(&decode(&tokens[..shown])).map(str::to_string)
}

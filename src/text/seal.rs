//! Messages whose special tokens are only text: `--no-special-tokens-in-content`.
//!
//! A special token that somebody types into a message must not end that message. But the template writes special tokens
//! too, and once it has run nobody can tell which are whose. So those in messages are hidden before: each becomes one
//! character of a private plane, which the template takes for ordinary text; then the stretches of text that hold such
//! characters are tokenized apart, with the typed text in its place and without looking for special tokens.

use std::{borrow::Cow, collections::HashMap};

use serde_json::Value;

use super::{TextError, Tokenizer};

/// Where private planes begin; one that the messages themselves don't use is taken.
const PLANES: [u32; 2] = [0x10_0000, 0xF_0000];
const PLANE_CHARACTERS: usize = 0xFFFE;

/// The added tokens of a tokenizer and the characters that hide them.
pub(super) struct Seal<'t> {
    tokenizer: &'t Tokenizer,
    /// By its first character: the token's text and what hides it; longer ones first.
    tokens: HashMap<char, Vec<(String, char)>>,
    hidden: HashMap<char, String>,
}

impl<'t> Seal<'t> {
    /// For these messages.
    pub fn new(tokenizer: &'t Tokenizer, messages: &Value) -> Result<Self, TextError> {
        let said = messages.to_string();
        let used = |plane: &u32| said.chars().any(|character| character as u32 >> 16 == plane >> 16);
        let plane = PLANES.into_iter().find(|plane| !used(plane)).ok_or_else(|| TextError::Messages {
            message: "the messages use characters of all private planes of Unicode".into(),
        })?;
        let texts = tokenizer.added_tokens().map(|(_, text)| text).filter(|text| !text.trim().is_empty());
        let (mut tokens, mut hidden) = (HashMap::<char, Vec<_>>::new(), HashMap::new());
        for (text, code) in texts.take(PLANE_CHARACTERS).zip(plane..) {
            let (Some(first), Some(character)) = (text.chars().next(), char::from_u32(code)) else { continue };
            tokens.entry(first).or_default().push((text.clone(), character));
            hidden.insert(character, text);
        }
        tokens.values_mut().for_each(|list| list.sort_by_key(|(text, _)| std::cmp::Reverse(text.len())));
        Ok(Self { tokenizer, tokens, hidden })
    }

    /// The messages with their special tokens hidden. An assistant's are its own words, which templates look into.
    pub fn close(&self, messages: &Value) -> Value {
        let mut messages = messages.clone();
        for message in messages.as_array_mut().into_iter().flatten().filter(|message| message["role"] != "assistant") {
            if let Some(content) = message.get_mut("content") {
                self.hide(content);
            }
        }
        messages
    }

    fn hide(&self, content: &mut Value) {
        match content {
            Value::String(text) => {
                if let Cow::Owned(hidden) = self.hidden_in(text) {
                    *text = hidden;
                }
            }
            Value::Array(parts) => parts.iter_mut().for_each(|part| match part {
                Value::Object(fields) => fields.get_mut("text").into_iter().for_each(|text| self.hide(text)),
                text => self.hide(text),
            }),
            _ => {}
        }
    }

    fn hidden_in<'s>(&self, text: &'s str) -> Cow<'s, str> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while let Some((at, token, character)) = self.next(text, done) {
            pieces.push(text[done..at].to_owned());
            pieces.push(character.into());
            done = at + token.len();
        }
        if pieces.is_empty() { text.into() } else { (pieces.concat() + &text[done..]).into() }
    }

    /// The first added token at or after a place: where it is, itself, and what hides it.
    fn next(&self, text: &str, from: usize) -> Option<(usize, &str, char)> {
        text[from..].char_indices().find_map(|(offset, first)| {
            let at = from + offset;
            let found = self.tokens.get(&first)?.iter().find(|(token, _)| text[at..].starts_with(token.as_str()));
            found.map(|(token, character)| (at, token.as_str(), *character))
        })
    }

    /// The tokens of a rendered text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let is_hidden = |text: &str| text.chars().any(|character| self.hidden.contains_key(&character));
        if !is_hidden(text) {
            return self.tokenizer.encode(text, false);
        }
        let (mut ids, mut ordinary, mut done) = (Vec::new(), 0, 0);
        loop {
            let token = self.next(text, done);
            let end = token.map_or(text.len(), |(at, ..)| at);
            if is_hidden(&text[done..end]) {
                ids.extend(self.tokenizer.encode(&text[ordinary..done], false)?);
                ids.extend(self.tokenizer.encode_plain(&self.open(&text[done..end]))?);
                ordinary = end;
            }
            match token {
                Some((at, token, _)) => done = at + token.len(),
                None => break,
            }
        }
        ids.extend(self.tokenizer.encode(&text[ordinary..], false)?);
        Ok(ids)
    }

    fn open(&self, text: &str) -> String {
        let mut opened = String::with_capacity(text.len());
        for character in text.chars() {
            match self.hidden.get(&character) {
                Some(token) => opened.push_str(token),
                None => opened.push(character),
            }
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::text::{ChatOptions, TextModel, TextOverrides};

    #[test]
    fn typed_special_tokens_are_text_and_the_templates_own_are_not() {
        for (model, typed) in [("llama3_rope", "a<|im_end|>\n<think>b"), ("ernie45", "a</s> <think>b")] {
            let path = crate::fixtures::golden("models").join(model);
            let load = |no_special_tokens_in_content| {
                TextModel::load(&path, TextOverrides { no_special_tokens_in_content, ..TextOverrides::default() })
            };
            let (open, sealed) = (load(false).unwrap(), load(true).unwrap());
            let messages = |text: &str| json!([{"role": "user", "content": [{"type": "text", "text": text}]}]);
            let prompt =
                |model: &TextModel, text: &str| model.chat_prompt(&messages(text), &ChatOptions::default()).unwrap();
            assert_eq!(prompt(&sealed, "plain"), prompt(&open, "plain"), "{model}");
            let (with, without) = (prompt(&open, typed), prompt(&sealed, typed));
            let specials = |ids: &[u32]| ids.iter().filter(|&&id| open.tokenizer.is_special(id)).count();
            assert_eq!(specials(&without), specials(&prompt(&open, "plain")), "{model}");
            assert!(specials(&with) > specials(&without), "{model}");
            assert!(open.tokenizer.decode(&without, false).contains(typed), "{model}");
        }
    }
}

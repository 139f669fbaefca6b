//! One answer as its events come: when the pieces came, and how many tokens they were.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};
use serde_json::Value;

use super::failure::Failure;

/// A whole answer. Times count from the moment before its connection was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Until the first piece (time to first token).
    pub first: Duration,
    /// Until the last piece.
    pub last: Duration,
    /// Until the end of the stream.
    pub end: Duration,
    /// Between one piece and the next.
    pub gaps: Vec<Duration>,
    /// Tokens of the prompt, where the server told.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, where the server told.
    pub output_tokens: Option<u64>,
}

impl Answer {
    /// Pieces: one token each in most servers, where none waits for its neighbour.
    pub fn pieces(&self) -> u64 {
        self.gaps.len() as u64 + 1
    }

    /// Tokens as the server counted them, else pieces.
    pub fn tokens(&self) -> u64 {
        self.output_tokens.unwrap_or(self.pieces())
    }

    /// Time per token after the first; none for a single token.
    pub fn per_token(&self) -> Option<Duration> {
        let after_first = u32::try_from(self.tokens().saturating_sub(1)).ok().filter(|&tokens| tokens > 0)?;
        Some((self.last - self.first) / after_first)
    }
}

/// Room for so many gaps is made before an answer begins, so that none is made while it comes.
const GAPS_RESERVED_MAX: usize = 4096;

/// An answer that still grows.
#[derive(Debug)]
pub struct Growing {
    start: Instant,
    first: Option<Instant>,
    last: Instant,
    gaps: Vec<Duration>,
    usage: Usage,
    /// The server said that this is all.
    ended: bool,
}

impl Growing {
    /// Asked for at this moment, for about so many tokens.
    pub fn new(start: Instant, tokens: usize) -> Self {
        let gaps = Vec::with_capacity(tokens.min(GAPS_RESERVED_MAX));
        Self { start, first: None, last: start, gaps, usage: Usage::default(), ended: false }
    }

    /// Takes an event that came at this moment.
    pub fn take(&mut self, data: &[u8], now: Instant) -> Result<(), Failure> {
        if data == b"[DONE]" {
            self.ended = true;
            return Ok(());
        }
        let event: Event = serde_json::from_slice(data)
            .map_err(|error| Failure::Malformed(format!("an event that is none ({error})")))?;
        if let Some(error) = event.error {
            let message = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Err(Failure::Told(message));
        }
        for choice in event.choices {
            if choice.has_text() {
                self.piece(now);
            }
            self.ended |= choice.finish_reason.0;
        }
        self.usage = event.usage.unwrap_or(self.usage);
        Ok(())
    }

    fn piece(&mut self, now: Instant) {
        match self.first {
            None => self.first = Some(now),
            Some(_) => self.gaps.push(now - self.last),
        }
        self.last = now;
    }

    /// The stream has ended.
    pub fn finish(self, now: Instant) -> Result<Answer, Failure> {
        if !self.ended {
            return Err(Failure::BrokenOff("the stream ended without its end".into()));
        }
        let first = self.first.ok_or(Failure::Empty)?;
        Ok(Answer {
            first: first - self.start,
            last: self.last - self.start,
            end: now - self.start,
            gaps: self.gaps,
            input_tokens: self.usage.prompt_tokens,
            output_tokens: self.usage.completion_tokens.filter(|&tokens| tokens > 0),
        })
    }
}

/// What matters of an event. Texts are looked at and not kept.
#[derive(Deserialize)]
struct Event {
    #[serde(default, deserialize_with = "null_is_default")]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: HasText,
    #[serde(default, deserialize_with = "null_is_default")]
    delta: Delta,
    #[serde(default)]
    finish_reason: HasText,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    content: HasText,
    reasoning_content: HasText,
    reasoning: HasText,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Choice {
    fn has_text(&self) -> bool {
        [self.text, self.delta.content, self.delta.reasoning_content, self.delta.reasoning].iter().any(|text| text.0)
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// Whether a field holds a text that is not empty.
#[derive(Debug, Clone, Copy, Default)]
struct HasText(bool);

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or null")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(!text.is_empty())
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer whose events come a millisecond after one another.
    fn answer(events: &[&str]) -> Result<Answer, Failure> {
        let start = Instant::now();
        let moment = |index: usize| start + Duration::from_millis(index as u64 + 1);
        let mut growing = Growing::new(start, 4);
        for (index, event) in events.iter().enumerate() {
            growing.take(event.as_bytes(), moment(index))?;
        }
        growing.finish(moment(events.len()))
    }

    #[test]
    fn pieces_are_timed_and_tokens_are_counted_as_the_server_does() {
        let chat = [
            r#"{"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": null}], "usage": null}"#,
            r#"{"choices": [{"delta": {"reasoning_content": "hm"}}]}"#,
            r#"{"choices": [{"delta": {"content": "a\nb"}}]}"#,
            r#"{"choices": [{"delta": {"content": null}, "finish_reason": "length"}]}"#,
            r#"{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}"#,
            "[DONE]",
        ];
        let ms = Duration::from_millis;
        let whole = answer(&chat).unwrap();
        assert_eq!((whole.first, whole.last, whole.end), (ms(2), ms(3), ms(7)));
        assert_eq!((whole.input_tokens, whole.tokens(), whole.pieces()), (Some(7), 3, 2));
        assert_eq!((whole.gaps.clone(), whole.per_token()), (vec![ms(1)], Some(Duration::from_micros(500))));
        // Without usage pieces count; a finish reason is an end too.
        let whole = answer(&[r#"{"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}"#]).unwrap();
        assert_eq!((whole.output_tokens, whole.tokens(), whole.per_token()), (None, 1, None));
    }

    #[test]
    fn what_is_no_whole_answer_says_why() {
        for (events, part) in [
            (&[r#"{"error": {"message": "a rank died"}}"#][..], "a rank died"),
            (&[r#"{"error": "x"}"#], "x"),
            (&["[DONE]"], "without text"),
            (&[r#"{"choices": [{"text": "a"}]}"#], "broke off"),
            (&["{"], "makes no sense"),
            (&[r#"{"choices": [{"text": 3}]}"#], "makes no sense"),
            (&["[1]"], "makes no sense"),
        ] {
            let failure = answer(events).unwrap_err().to_string();
            assert!(failure.contains(part), "{events:?}: {failure}");
        }
    }
}

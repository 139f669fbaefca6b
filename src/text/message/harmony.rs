//! gpt-oss's messages: every part has a header that names its channel.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json
//! <|message|>{…}<|call|>`; the answer is the channel `final`, and so is what is said to the user in `commentary`.

use std::mem;

use super::{
    marks::{self, Found},
    parts::Parts,
};

/// All marks of the format.
pub(super) const MARKS: [&str; 7] =
    ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"];
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";

/// A text without a header becomes an answer after so many bytes.
const HEADER_BYTES_MAX: usize = 512;

/// Reads the channels.
#[derive(Debug)]
pub(super) struct Harmony {
    /// Whether what is addressed to a function is a call of it.
    calls: bool,
    place: Place,
    held: String,
}

#[derive(Debug)]
enum Place {
    Header(String),
    Analysis,
    Answer,
    /// In a call's arguments; whether any came.
    Call {
        begun: bool,
    },
}

impl Harmony {
    pub fn new(calls: bool) -> Self {
        Self { calls, place: Place::Header(String::new()), held: String::new() }
    }

    pub fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Analysis)
    }

    pub fn read(&mut self, piece: &str, last: bool, calls_max: usize, parts: &mut Parts) {
        self.held.push_str(piece);
        let text = mem::take(&mut self.held);
        let mut rest = text.as_str();
        while !parts.is_over(calls_max) {
            match marks::next(rest, &MARKS, last) {
                Found::Unknown => break,
                Found::Text(length) => {
                    self.text(&rest[..length], parts);
                    rest = &rest[length..];
                }
                Found::Mark(index) => {
                    self.mark(MARKS[index], parts);
                    rest = &rest[MARKS[index].len()..];
                }
            }
        }
        self.held = rest.to_owned();
        if last {
            self.finish(parts);
        }
    }

    fn text(&mut self, text: &str, parts: &mut Parts) {
        match &mut self.place {
            Place::Header(header) => {
                // By the character, so that it doesn't matter how the text was cut.
                let room = HEADER_BYTES_MAX.saturating_sub(header.len());
                let fits = text.char_indices().map(|(at, _)| at).find(|&at| at >= room).unwrap_or(text.len());
                header.push_str(&text[..fits]);
                if fits < text.len() {
                    parts.content(marks::without(&mem::take(header), &MARKS));
                    parts.content(text[fits..].to_owned());
                    self.place = Place::Answer;
                }
            }
            Place::Analysis => parts.reasoning(text.to_owned()),
            Place::Answer => parts.content(text.to_owned()),
            Place::Call { begun } => {
                let text = if *begun { text } else { text.trim_start() };
                *begun |= !text.is_empty();
                parts.arguments(text);
            }
        }
    }

    fn mark(&mut self, mark: &str, parts: &mut Parts) {
        match (&mut self.place, mark) {
            (Place::Header(header), MESSAGE) => {
                let header = mem::take(header);
                self.place = self.place_of(&header, parts);
            }
            (Place::Header(header), CHANNEL | "<|constrain|>") => header.push_str(mark),
            (Place::Header(header), START) => header.clear(),
            (Place::Header(_), _) => {}
            // A header without `<|message|>` before it: the part has ended all the same.
            (_, CHANNEL) => {
                self.end(parts);
                self.place = Place::Header(CHANNEL.into());
            }
            (_, "<|constrain|>" | MESSAGE) => {}
            _ => {
                self.end(parts);
                self.place = Place::Header(String::new());
            }
        }
    }

    fn place_of(&self, header: &str, parts: &mut Parts) -> Place {
        let channel = header.split_once(CHANNEL).map_or("", |(_, rest)| rest.trim_start());
        let function = header.split_once("to=functions.").map(|(_, rest)| word(rest));
        match function {
            Some(name) if self.calls && !name.is_empty() => {
                parts.call(name);
                Place::Call { begun: false }
            }
            _ if channel.starts_with("analysis") => Place::Analysis,
            _ => Place::Answer,
        }
    }

    fn end(&mut self, parts: &mut Parts) {
        if let Place::Call { begun } = &self.place {
            if !begun {
                parts.arguments("{}");
            }
            parts.end_call();
        }
    }

    fn finish(&mut self, parts: &mut Parts) {
        match mem::replace(&mut self.place, Place::Answer) {
            // A header that breaks off says nothing; a text that never was one is the answer.
            Place::Header(header) if !header.contains(CHANNEL) && header.trim() != "assistant" => {
                parts.content(marks::without(&header, &MARKS));
            }
            Place::Header(_) | Place::Analysis | Place::Answer => {}
            place @ Place::Call { .. } => {
                self.place = place;
                self.end(parts);
            }
        }
    }
}

/// Up to white space or a mark.
fn word(text: &str) -> &str {
    let end = |character: char| character.is_whitespace() || character == '<';
    &text[..text.find(end).unwrap_or(text.len())]
}

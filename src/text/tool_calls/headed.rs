//! Calls written as a name and, behind it, the arguments as JSON.

use std::mem;

use super::{
    CallReader, Read,
    json_calls::JsonReader,
    json_text::{JsonValue, Step},
};
use crate::text::message::parts::Parts;

/// A header longer than this is none, bytes.
const HEADER_BYTES_MAX: usize = 512;

/// Where the name stands in what comes before the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What comes before the name, if it is there.
    pub name_begins_after: Option<&'static str>,
    /// What comes behind the name, if it is there.
    pub name_ends_at: &'static [&'static str],
}

impl Header {
    fn name<'h>(&self, header: &'h str) -> Option<&'h str> {
        let begin = self.name_begins_after.and_then(|mark| Some(header.find(mark)? + mark.len())).unwrap_or(0);
        let rest = &header[begin..];
        let end = self.name_ends_at.iter().filter_map(|mark| rest.find(mark)).min().unwrap_or(rest.len());
        Some(rest[..end].trim()).filter(|name| !name.is_empty() && !name.contains(char::is_whitespace))
    }
}

/// Reads `name{…}` with the format's marks between. A list or an object without a name is read as [`JsonReader`] does.
#[derive(Debug)]
pub(crate) struct HeadedReader {
    header: Header,
    state: State,
}

#[derive(Debug)]
enum State {
    Header(String),
    Arguments(JsonValue),
    Json(JsonReader),
}

impl HeadedReader {
    pub fn new(header: Header) -> Self {
        Self { header, state: State::Header(String::new()) }
    }

    /// Reads one character of the header; whether it can still become one.
    fn head(&mut self, character: char, parts: &mut Parts) -> bool {
        let State::Header(text) = &mut self.state else { return true };
        match (character, text.trim().is_empty()) {
            ('{', true) => return false,
            ('{', false) => {
                let Some(name) = self.header.name(text) else { return false };
                parts.call(name);
                let mut value = JsonValue::default();
                value.step('{');
                parts.arguments("{");
                self.state = State::Arguments(value);
            }
            _ if text.len() >= HEADER_BYTES_MAX => return false,
            _ => text.push(character),
        }
        true
    }

    fn give_back(&mut self) -> String {
        match &mut self.state {
            State::Header(text) => mem::take(text),
            _ => String::new(),
        }
    }
}

impl CallReader for HeadedReader {
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read {
        for (at, character) in text.char_indices() {
            if let State::Header(header) = &self.state
                && header.trim().is_empty()
                && matches!(character, '[' | '{')
            {
                self.state = State::Json(JsonReader::new(None));
            }
            if matches!(self.state, State::Header(_)) {
                if !self.head(character, parts) {
                    return Read::NoCall(at, self.give_back());
                }
                continue;
            }
            match &mut self.state {
                State::Header(_) => {}
                State::Arguments(value) => match value.step(character) {
                    Step::Inside => parts.arguments(character.encode_utf8(&mut [0; 4])),
                    Step::Last => {
                        parts.arguments(character.encode_utf8(&mut [0; 4]));
                        parts.end_call();
                        return Read::Done(at + character.len_utf8());
                    }
                    Step::Behind | Step::Wrong => return Read::Done(at),
                },
                State::Json(reader) => return read_behind(reader, at, text, parts),
            }
        }
        Read::More(text.len())
    }

    fn finish(&mut self, parts: &mut Parts) -> String {
        match &mut self.state {
            State::Json(reader) => reader.finish(parts),
            _ => self.give_back(),
        }
    }
}

fn read_behind(reader: &mut JsonReader, begin: usize, text: &str, parts: &mut Parts) -> Read {
    match reader.read(&text[begin..], parts) {
        Read::More(length) => Read::More(begin + length),
        Read::Done(length) => Read::Done(begin + length),
        Read::NoCall(length, no_call) => Read::NoCall(begin + length, no_call),
    }
}

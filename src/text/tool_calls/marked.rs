//! Calls whose arguments stand one by one between marks, as in XML.

use std::{mem, sync::Arc};

use serde_json::Value;

use super::{CallReader, Read, Tools, tools::ValueKind};
use crate::text::message::{
    marks::{self, Found},
    parts::Parts,
};

/// A name or key longer than this is none, bytes.
const NAME_BYTES_MAX: usize = 512;

/// The marks of such a call, behind the one that opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementMarks {
    /// Behind the tool's name; so are `key_open` and `call_end`.
    pub name_end: &'static str,
    /// Before a parameter's name.
    pub key_open: &'static str,
    /// Behind a parameter's name.
    pub key_end: &'static str,
    /// Before a parameter's value, where more than the key's end stands there.
    pub value_open: Option<&'static str>,
    /// Behind a parameter's value.
    pub value_end: &'static str,
    /// Behind the last parameter.
    pub call_end: &'static str,
}

/// Makes one JSON object of a call's arguments. A parameter that is a string by its tool's schema is one whatever stands
/// there, and streams; other values are taken as JSON where they are JSON, else as strings.
#[derive(Debug)]
pub(crate) struct MarkedReader {
    marks: ElementMarks,
    tools: Arc<Tools>,
    name: String,
    state: State,
    /// Whether the object has an entry.
    any: bool,
}

#[derive(Debug)]
enum State {
    Name(String),
    /// Between parameters.
    Outside,
    Key(String),
    /// Before a value's opening mark.
    BeforeValue(String),
    /// In a value that streams as a string; a newline at its end is held back.
    Text {
        begun: bool,
        newline: bool,
    },
    /// In a value whose kind shows at its end.
    Whole(String),
}

impl MarkedReader {
    pub fn new(marks: ElementMarks, tools: Arc<Tools>) -> Self {
        Self { marks, tools, name: String::new(), state: State::Name(String::new()), any: false }
    }

    /// What may come next and is not text.
    fn expected(&self) -> Vec<&'static str> {
        let ElementMarks { name_end, key_open, key_end, value_open, value_end, call_end } = self.marks;
        match self.state {
            State::Name(_) => vec![name_end, key_open, call_end],
            State::Outside => vec![key_open, call_end],
            State::Key(_) => vec![key_end],
            State::BeforeValue(_) => vec![value_open.unwrap_or(key_end)],
            State::Text { .. } | State::Whole(_) => vec![value_end],
        }
    }

    /// Takes ordinary text; whether it can be a part of a call.
    fn text(&mut self, text: &str, parts: &mut Parts) -> bool {
        match &mut self.state {
            State::Name(name) | State::Key(name) => {
                name.push_str(text);
                return name.len() <= NAME_BYTES_MAX && !matches!(name.trim_start().chars().next(), Some('{' | '<'));
            }
            State::Outside => return text.trim().is_empty(),
            State::BeforeValue(_) => {}
            State::Whole(value) => value.push_str(text),
            State::Text { begun, newline } => {
                let text = if *begun { text } else { text.strip_prefix('\n').unwrap_or(text) };
                *begun = true;
                if text.is_empty() {
                    return true;
                }
                let held = mem::replace(newline, text.ends_with('\n'));
                let text = if *newline { &text[..text.len() - 1] } else { text };
                parts.arguments(&escaped(if held { "\n" } else { "" }));
                parts.arguments(&escaped(text));
            }
        }
        true
    }

    /// Takes a mark; whether it ends the call.
    fn mark(&mut self, mark: &str, parts: &mut Parts) -> bool {
        match mem::replace(&mut self.state, State::Outside) {
            State::Name(name) => {
                self.name = name.trim().to_owned();
                parts.call(&self.name);
                parts.arguments("{");
                self.go_on(mark, parts)
            }
            State::Outside => self.go_on(mark, parts),
            State::Key(key) if self.marks.value_open.is_some() => {
                self.state = State::BeforeValue(key);
                false
            }
            State::Key(key) | State::BeforeValue(key) => {
                self.begin_value(key.trim(), parts);
                false
            }
            State::Text { .. } => {
                parts.arguments("\"");
                false
            }
            State::Whole(value) => {
                parts.arguments(&json_of(&value));
                false
            }
        }
    }

    fn go_on(&mut self, mark: &str, parts: &mut Parts) -> bool {
        if mark == self.marks.key_open {
            self.state = State::Key(String::new());
        } else if mark == self.marks.call_end {
            parts.arguments("}");
            return true;
        }
        false
    }

    fn begin_value(&mut self, key: &str, parts: &mut Parts) {
        // DeepSeek's marks tell the kind: `key" string="true`.
        let (key, told) = key.split_once("\" string=\"").map_or((key, None), |(key, told)| (key, Some(told)));
        let is_text = told.map_or(self.tools.kind(&self.name, key) == ValueKind::Text, |told| told == "true");
        if mem::replace(&mut self.any, true) {
            parts.arguments(", ");
        }
        parts.arguments(&format!("{}: ", Value::from(key)));
        if is_text {
            parts.arguments("\"");
            self.state = State::Text { begun: false, newline: false };
        } else {
            self.state = State::Whole(String::new());
        }
    }
}

impl CallReader for MarkedReader {
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read {
        let mut at = 0;
        loop {
            let expected = self.expected();
            match marks::next(&text[at..], &expected, false) {
                Found::Unknown => return Read::More(at),
                Found::Text(length) => {
                    // One character at a time, so that what is no call shows at the same place however the text is cut.
                    for (offset, character) in text[at..at + length].char_indices() {
                        if !self.text(character.encode_utf8(&mut [0; 4]), parts) {
                            return self.no_call(at + offset, character, parts);
                        }
                    }
                    at += length;
                }
                Found::Mark(index) => {
                    let mark = expected[index];
                    if matches!(&self.state, State::Name(name) if name.trim().is_empty()) && mark != self.marks.name_end
                    {
                        return Read::NoCall(at, String::new());
                    }
                    // A newline before the name is not the one behind it.
                    if matches!(&self.state, State::Name(name) if name.trim().is_empty()) {
                        at += mark.len();
                        continue;
                    }
                    at += mark.len();
                    if self.mark(mark, parts) {
                        parts.end_call();
                        return Read::Done(at);
                    }
                }
            }
        }
    }

    fn finish(&mut self, parts: &mut Parts) -> String {
        match mem::replace(&mut self.state, State::Outside) {
            State::Name(text) => text,
            // Only the end mark is missing.
            State::Outside => {
                parts.arguments("}");
                String::new()
            }
            // What was written of the last value may be wrong without its end, so it is left as it is.
            State::Text { .. } | State::Key(_) | State::BeforeValue(_) => String::new(),
            State::Whole(value) => {
                parts.arguments(value.trim());
                String::new()
            }
        }
    }
}

impl MarkedReader {
    /// Ends the reading before a character that doesn't belong to a call.
    fn no_call(&mut self, at: usize, character: char, parts: &mut Parts) -> Read {
        match &mut self.state {
            State::Name(name) => {
                // The character itself was taken in already.
                name.truncate(name.len() - character.len_utf8());
                Read::NoCall(at, mem::take(name))
            }
            _ => {
                parts.arguments("}");
                Read::Done(at)
            }
        }
    }
}

/// The characters of a JSON string that stands for `text`.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A value as JSON: itself where it is JSON, else a string without the newlines at its ends.
fn json_of(value: &str) -> String {
    let trimmed = value.trim();
    if serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
        return trimmed.to_owned();
    }
    match trimmed {
        "True" => "true".into(),
        "False" => "false".into(),
        "None" => "null".into(),
        _ => {
            let text = value.strip_prefix('\n').unwrap_or(value);
            Value::from(text.strip_suffix('\n').unwrap_or(text)).to_string()
        }
    }
}

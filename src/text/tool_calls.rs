//! How models write calls of tools, by the names of `--tool-call-parser`.
//!
//! A format is a row of [`TOOL_FORMATS`]: the marks that begin a call, those that only stand around, and how what is
//! between is read. A new model usually is a new row; a new way of writing is a file of this room.

mod formats;
mod headed;
mod json_calls;
mod json_text;
mod marked;
mod python_literal;
mod pythonic;
mod tools;

use std::{fmt, sync::Arc};

use self::{headed::HeadedReader, json_calls::JsonReader, marked::MarkedReader, pythonic::PythonicReader};
use super::message::parts::Parts;

pub use self::{
    formats::{FORCED_CALLS, TOOL_FORMATS},
    headed::Header,
    marked::ElementMarks,
    tools::Tools,
};

/// A model's way to call tools.
#[derive(Debug, PartialEq, Eq)]
pub struct ToolFormat {
    /// Its names, written with `-`.
    pub names: &'static [&'static str],
    /// Marks behind which calls are read.
    pub open: &'static [&'static str],
    /// Marks around calls that say nothing more.
    pub around: &'static [&'static str],
    /// Characters that begin a call without any mark, where the answer begins with one.
    pub bare: &'static [char],
    /// How calls are written behind the marks.
    pub kind: CallKind,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `{"name": …, "arguments": {…}}`, several in a row or in a list; `parameters` means the same.
    Json,
    /// The same, in a list that the mark has opened.
    JsonList,
    /// A name, then its arguments as JSON: `name{…}`.
    Headed(Header),
    /// Arguments between marks, each for itself.
    Elements(ElementMarks),
    /// Python's calls: `[name(argument=1), other()]`.
    Pythonic,
    /// gpt-oss's channels, which [`super::message`] reads itself.
    Harmony,
}

impl ToolFormat {
    /// The format of this name, written with `-` or `_`.
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        TOOL_FORMATS.iter().find(|format| format.names.contains(&name.as_str()))
    }

    /// A reader for what follows an opening mark, or (`bare`) for an answer that begins like a call.
    pub(crate) fn reader(&self, tools: &Arc<Tools>, bare: bool) -> Box<dyn CallReader> {
        // Without a mark it may be an ordinary answer, so only the request's own tools count as calls.
        let only = (bare && !std::ptr::eq(self, &FORCED_CALLS)).then(|| tools.clone());
        match self.kind {
            CallKind::Json | CallKind::Harmony => Box::new(JsonReader::new(only)),
            CallKind::JsonList => Box::new(JsonReader::in_list()),
            CallKind::Headed(header) => Box::new(HeadedReader::new(header)),
            CallKind::Elements(marks) => Box::new(MarkedReader::new(marks, tools.clone())),
            CallKind::Pythonic => Box::new(PythonicReader::new(only)),
        }
    }
}

/// All names that [`ToolFormat::named`] knows.
pub fn tool_format_names() -> Vec<&'static str> {
    TOOL_FORMATS.iter().flat_map(|format| format.names).copied().collect()
}

/// Reads calls out of a text that comes in pieces. What it makes of a text doesn't depend on how it was cut.
pub(crate) trait CallReader: fmt::Debug + Send {
    /// Reads on. Returns at the end of each call, so that the caller can stop there.
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read;

    /// No more text comes: closes what can be closed, and returns the text that became no call.
    fn finish(&mut self, parts: &mut Parts) -> String;
}

/// What became of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes were read; more of the calls may follow.
    More(usize),
    /// So many bytes were read, and there the calls end.
    Done(usize),
    /// So many bytes were read, and there is no call: this text is the answer's.
    NoCall(usize, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_both_spellings_and_only_once() {
        assert_eq!(ToolFormat::named("Qwen3_Coder"), ToolFormat::named("qwen3-coder"));
        assert!(ToolFormat::named("nobody").is_none());
        let mut names = tool_format_names();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}

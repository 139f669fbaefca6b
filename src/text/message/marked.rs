//! Reads messages in which marks tell reasoning, content and calls apart.

use std::{mem, sync::Arc};

use super::{
    CallFormat, MessageFormat,
    flow::{self, Flow},
    marks::{self, Found},
    parts::Parts,
};
use crate::text::tool_calls::{CallReader, Read, Tools};

/// A message with marks in it.
#[derive(Debug)]
pub(super) struct Marked {
    marks: Vec<&'static str>,
    meanings: Vec<Mark>,
    calls: Option<CallFormat>,
    tools: Arc<Tools>,
    place: Place,
    /// Text that is not understood yet.
    held: String,
    /// Text that was read as a part of a call, is none, and may be the beginning of a mark.
    back: String,
    content: Flow,
    reasoning: Flow,
}

#[derive(Debug)]
enum Place {
    Thinking,
    Answer,
    /// Behind a call's opening mark, in reasoning or content.
    Call {
        reader: Box<dyn CallReader>,
        bare: bool,
        thinking: bool,
        calls_before: usize,
    },
    /// In the arguments of the one call that all content is.
    Arguments,
}

/// What a mark means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Reasoning begins.
    Think,
    /// Reasoning ends.
    Answer,
    /// A call begins.
    Call,
    /// It only stands around something.
    Nothing,
}

impl Marked {
    /// At the beginning of a message.
    pub(super) fn new(format: &MessageFormat) -> Self {
        let (marks, meanings) = format.marks().into_iter().unzip();
        Self {
            marks,
            meanings,
            calls: format.calls.clone(),
            tools: format.tools.clone(),
            place: if format.thinking { Place::Thinking } else { Place::Answer },
            held: String::new(),
            back: String::new(),
            content: Flow::default(),
            reasoning: Flow::behind_mark(),
        }
    }

    /// Whether what comes next is reasoning, as far as one can see.
    pub(super) fn is_thinking(&self) -> bool {
        matches!(self.place, Place::Thinking | Place::Call { thinking: true, .. })
    }

    /// Takes the next piece; with the `last`, what was held back too.
    pub(super) fn read(&mut self, piece: &str, last: bool, calls_max: usize, parts: &mut Parts) {
        let mut text = mem::take(&mut self.held);
        text.push_str(piece);
        let mut at = 0;
        while !parts.is_over(calls_max) {
            let rest = &text[at..];
            let read = match &self.place {
                Place::Call { .. } => self.read_call(rest, parts),
                Place::Arguments => {
                    parts.arguments(rest);
                    Some(rest.len())
                }
                Place::Answer if self.may_be_bare() => self.read_beginning(rest, last, parts),
                Place::Thinking | Place::Answer => self.read_text(rest, last, parts),
            };
            // A place that changed reads the same text once more; it is over when nothing more can be read.
            let Some(length) = read.filter(|_| !rest.is_empty()) else { break };
            at += length;
            if !self.back.is_empty() {
                text.replace_range(..at, &mem::take(&mut self.back));
                at = 0;
            }
        }
        text.drain(..at);
        self.held = text;
        if last {
            self.finish(parts);
        }
    }

    /// Reads one stretch of text or one mark; none where more text is needed.
    fn read_text(&mut self, rest: &str, last: bool, parts: &mut Parts) -> Option<usize> {
        match marks::next(rest, &self.marks, last) {
            Found::Unknown => None,
            Found::Text(length) => {
                self.write(&rest[..length], parts);
                Some(length)
            }
            Found::Mark(index) => {
                self.mark(self.meanings[index], parts);
                Some(self.marks[index].len())
            }
        }
    }

    fn write(&mut self, text: &str, parts: &mut Parts) {
        match self.place {
            Place::Thinking => parts.reasoning(self.reasoning.push(text)),
            _ => parts.content(self.content.push(text)),
        }
    }

    fn mark(&mut self, mark: Mark, parts: &Parts) {
        match mark {
            Mark::Call => return self.begin_call(false, parts),
            Mark::Think => self.place = Place::Thinking,
            Mark::Answer => self.place = Place::Answer,
            Mark::Nothing => {}
        }
        self.reasoning.mark();
        self.content.mark();
    }

    /// Whether a call or its arguments may begin here without a mark.
    fn may_be_bare(&self) -> bool {
        let may = match &self.calls {
            Some(CallFormat::Found(format)) => !format.bare.is_empty(),
            Some(CallFormat::Arguments(_)) => true,
            None => false,
        };
        may && !self.content.has_begun()
    }

    /// Reads the beginning of the content; none where more text is needed.
    fn read_beginning(&mut self, rest: &str, last: bool, parts: &mut Parts) -> Option<usize> {
        let space = rest.len() - rest.trim_start_matches(flow::is_space).len();
        if space > 0 {
            self.write(&rest[..space], parts);
            return Some(space);
        }
        match (marks::next(rest, &self.marks, last), &self.calls) {
            (Found::Text(_), Some(CallFormat::Arguments(name))) => {
                parts.call(name);
                self.place = Place::Arguments;
                Some(0)
            }
            (Found::Text(_), Some(CallFormat::Found(format))) if rest.starts_with(format.bare) => {
                self.begin_call(true, parts);
                Some(0)
            }
            _ => self.read_text(rest, last, parts),
        }
    }

    fn begin_call(&mut self, bare: bool, parts: &Parts) {
        let Some(CallFormat::Found(format)) = &self.calls else { return };
        let reader = format.reader(&self.tools, bare);
        self.place = Place::Call { reader, bare, thinking: self.is_thinking(), calls_before: parts.calls() };
    }

    fn read_call(&mut self, rest: &str, parts: &mut Parts) -> Option<usize> {
        let Place::Call { reader, bare, thinking, calls_before } = &mut self.place else { return None };
        let read = reader.read(rest, parts);
        if parts.calls() > *calls_before {
            *thinking = false;
            self.reasoning.mark();
            self.content.mark();
        }
        let (bare, thinking) = (*bare, *thinking);
        match read {
            Read::More(0) => None,
            Read::More(length) => Some(length),
            Read::Done(length) => {
                self.leave_call(thinking, "", parts);
                Some(length)
            }
            Read::NoCall(length, mut text) => {
                // Without a mark before it, the same text would be taken for a call again.
                if !bare {
                    self.back = text.split_off(text.len() - self.mark_begun_in(&text));
                }
                self.leave_call(thinking, &text, parts);
                Some(length)
            }
        }
    }

    /// How many bytes at the end of a text are the beginning of a mark.
    fn mark_begun_in(&self, text: &str) -> usize {
        let begun = |at: &usize| self.marks.iter().any(|mark| mark.starts_with(&text[*at..]));
        text.char_indices().map(|(at, _)| at).find(begun).map_or(0, |at| text.len() - at)
    }

    /// A call ends the reasoning that it stands in; what is no call belongs to what was before it.
    fn leave_call(&mut self, thinking: bool, no_call: &str, parts: &mut Parts) {
        self.place = if thinking { Place::Thinking } else { Place::Answer };
        self.write(&marks::without(no_call, &self.marks), parts);
    }

    fn finish(&mut self, parts: &mut Parts) {
        if let Place::Call { reader, thinking, calls_before, .. } = &mut self.place {
            let text = mem::take(&mut self.held);
            let (thinking, calls_before) = (*thinking, *calls_before);
            let no_call = reader.finish(parts);
            let called = parts.calls() > calls_before;
            if called {
                parts.end_call();
            }
            // A mark may begin in what the reader took and end in what it left.
            let rest = if called { no_call } else { no_call + &text };
            self.leave_call(thinking && !called, &rest, parts);
        }
        let held = mem::take(&mut self.held);
        self.write(&held, parts);
        parts.reasoning(self.reasoning.finish());
        parts.content(self.content.finish());
    }
}

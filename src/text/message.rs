//! What an assistant's text is made of: reasoning, content, calls of tools.

pub(crate) mod flow;
mod harmony;
mod marked;
pub(crate) mod marks;
pub(crate) mod parts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::{
    harmony::Harmony,
    marked::{Mark, Marked},
    parts::Parts,
};
use super::{
    reasoning::ReasoningFormat,
    tool_calls::{CallKind, FORCED_CALLS, ToolFormat, Tools},
};

/// A step of a message's growth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More of what the model thinks aloud.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A call of a tool begins.
    Call {
        /// Which of the message's calls, from 0.
        index: usize,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments; all of them joined are one JSON object, if the model wrote one.
    Arguments {
        /// Which of the message's calls.
        index: usize,
        /// JSON text.
        text: String,
    },
}

/// How a model writes its message, and what of it is of interest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MessageFormat {
    /// How it marks its reasoning; none: what it writes is content.
    pub reasoning: Option<&'static ReasoningFormat>,
    /// Whether it is thinking when it begins to write ([`ReasoningFormat::starts_thinking`]).
    pub thinking: bool,
    /// How it calls tools; none: it can't.
    pub calls: Option<CallFormat>,
    /// The tools that it may call.
    pub tools: Arc<Tools>,
    /// The message is over after its first call.
    pub one_call: bool,
}

/// How calls are told from content.
#[derive(Debug, Clone, PartialEq)]
pub enum CallFormat {
    /// By the marks of a format.
    Found(&'static ToolFormat),
    /// All content is the arguments of a call of this tool.
    Arguments(String),
}

impl MessageFormat {
    /// A parser at the beginning of a message.
    pub fn parser(&self) -> MessageParser {
        let calls_max = if self.one_call { 1 } else { usize::MAX };
        let way = match &self.calls {
            _ if self.is_harmony() => Way::Harmony(Harmony::new(self.calls.is_some())),
            None if self.reasoning.is_none() => Way::Plain,
            _ => Way::Marked(Box::new(Marked::new(self))),
        };
        MessageParser { way, parts: Parts::default(), calls_max }
    }

    /// Whether text with this token in it is taken apart by it, so that the token must not be left out of the text.
    pub fn needs(&self, special_token: &str) -> bool {
        let marks = self.marks();
        let in_harmony = self.is_harmony() && harmony::MARKS.contains(&special_token);
        !special_token.trim().is_empty() && (in_harmony || marks.iter().any(|(mark, _)| mark.contains(special_token)))
    }

    /// Whether its channels are read. Where calls are forced it is only asked for the marks around reasoning.
    fn is_harmony(&self) -> bool {
        match &self.calls {
            Some(CallFormat::Arguments(_)) => false,
            Some(CallFormat::Found(format)) if std::ptr::eq(*format, &FORCED_CALLS) => false,
            Some(CallFormat::Found(format)) if format.kind == CallKind::Harmony => true,
            _ => self.reasoning.is_some_and(ReasoningFormat::is_harmony),
        }
    }

    fn marks(&self) -> Vec<(&'static str, Mark)> {
        let mut marks = Vec::new();
        let mut add = |texts: &[&'static str], mark| marks.extend(texts.iter().map(|text| (*text, mark)));
        if let Some(reasoning) = self.reasoning {
            add(reasoning.open, Mark::Think);
            add(reasoning.close, Mark::Answer);
            add(reasoning.around_answer, Mark::Nothing);
        }
        if let Some(CallFormat::Found(calls)) = self.calls {
            add(calls.open, Mark::Call);
            add(calls.around, Mark::Nothing);
        }
        marks
    }
}

/// Takes a growing text apart. What could still become a mark is held back until that is known.
///
/// What the parts join to doesn't depend on how the text was cut into pieces, and no mark of the format shows in
/// content or reasoning. White space beside a mark belongs to the mark. A text that begins like a call and turns out
/// to be none is content.
#[derive(Debug)]
pub struct MessageParser {
    way: Way,
    parts: Parts,
    calls_max: usize,
}

#[derive(Debug)]
enum Way {
    Plain,
    Marked(Box<Marked>),
    Harmony(Harmony),
}

impl MessageParser {
    /// All of the text is content.
    pub fn plain() -> Self {
        MessageFormat::default().parser()
    }

    /// Takes the next piece of the text; what it adds to the message, often nothing.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        self.read(piece, false)
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> Vec<Part> {
        self.read("", true)
    }

    /// Whether what comes next is reasoning, as far as one can see.
    pub fn is_thinking(&self) -> bool {
        match &self.way {
            Way::Plain => false,
            Way::Marked(marked) => marked.is_thinking(),
            Way::Harmony(harmony) => harmony.is_thinking(),
        }
    }

    /// How many calls have begun.
    pub fn calls(&self) -> usize {
        self.parts.calls()
    }

    /// Whether nothing that may still come is of interest, since the one call that was wanted is complete.
    pub fn is_over(&self) -> bool {
        self.parts.is_over(self.calls_max)
    }

    fn read(&mut self, piece: &str, last: bool) -> Vec<Part> {
        if !self.is_over() {
            match &mut self.way {
                Way::Plain => self.parts.content(piece.to_owned()),
                Way::Marked(marked) => marked.read(piece, last, self.calls_max, &mut self.parts),
                Way::Harmony(harmony) => harmony.read(piece, last, self.calls_max, &mut self.parts),
            }
        }
        self.parts.take()
    }
}

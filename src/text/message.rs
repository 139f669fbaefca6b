//! What an assistant's text is made of: reasoning, content, calls of tools.

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

/// Takes a growing text apart. What could still become a marker is held back until that is known.
#[derive(Debug, Default)]
pub struct MessageParser {}

impl MessageParser {
    /// All of the text is content.
    pub fn plain() -> Self {
        Self {}
    }

    /// Takes the next piece of the text; what it adds to the message, often nothing.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        if piece.is_empty() { Vec::new() } else { vec![Part::Content(piece.to_owned())] }
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> Vec<Part> {
        Vec::new()
    }
}

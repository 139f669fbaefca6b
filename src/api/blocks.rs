//! A message as a list of blocks, one after another, for the dialects that tell it so.

use std::sync::Arc;

use super::{
    choice::{FinishReason, Piece},
    request_id,
};
use crate::text::Part;

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// What the model thinks aloud.
    Reasoning,
    /// The answer.
    Text,
    /// A call of the tool of this name; the block's text is its arguments.
    Call(String),
}

/// A part of a message that is of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Its text up to now; of a call, JSON.
    pub text: String,
    /// What tells it from every other block; the rest of its ids.
    pub key: String,
}

/// A step of a message's growth. Blocks are opened, grow and are closed in order, one at a time; each is named by its
/// place in [`Message::blocks`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A block begins, without text.
    Opened(usize),
    /// So much more text, never empty.
    Grown(usize, String),
    /// It is complete.
    Closed(usize),
}

/// A growing message.
#[derive(Debug, Default)]
pub struct Message {
    /// Its blocks; only the last can still grow.
    pub blocks: Vec<Block>,
    /// Why it ended.
    pub finish: Option<FinishReason>,
    /// The stop string that ended it.
    pub stop_string: Option<Arc<str>>,
    /// Whether the last block can still grow.
    open: bool,
    /// White space that becomes the beginning of a text, if one follows: models write some between reasoning and calls.
    space: String,
}

impl Message {
    /// Takes one more piece of the sequence.
    pub fn take(&mut self, piece: &Piece) -> Vec<Change> {
        let mut changes = Vec::new();
        for part in &piece.parts {
            self.grow(part, &mut changes);
        }
        if piece.finish.is_some() {
            (self.finish, self.stop_string) = (piece.finish, piece.stop_string.clone());
            self.close(&mut changes);
        }
        changes
    }

    /// The places of the blocks that are complete.
    pub fn closed(&self) -> std::ops::Range<usize> {
        0..self.blocks.len() - usize::from(self.open)
    }

    /// Whether it calls a tool.
    pub fn calls(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block.kind, Kind::Call(_)))
    }

    /// Whether text is what it grows by now.
    pub fn is_text(&self) -> bool {
        self.open_kind().is_none_or(|kind| *kind == Kind::Text)
    }

    fn open_kind(&self) -> Option<&Kind> {
        self.blocks.last().filter(|_| self.open).map(|block| &block.kind)
    }

    fn grow(&mut self, part: &Part, changes: &mut Vec<Change>) {
        match part {
            Part::Reasoning(text) => self.add(Kind::Reasoning, text, changes),
            Part::Content(text) if self.open_kind() == Some(&Kind::Text) => self.add(Kind::Text, text, changes),
            Part::Content(text) => {
                self.space.push_str(text);
                if !self.space.trim().is_empty() {
                    let text = std::mem::take(&mut self.space);
                    self.add(Kind::Text, &text, changes);
                }
            }
            Part::Call { name, .. } => self.open(Kind::Call(name.clone()), changes),
            // Calls come one after another, so these belong to the one that is open.
            Part::Arguments { text, .. } => self.append(text, changes),
        }
    }

    fn add(&mut self, kind: Kind, text: &str, changes: &mut Vec<Change>) {
        if !text.is_empty() && self.open_kind() != Some(&kind) {
            self.open(kind, changes);
        }
        self.append(text, changes);
    }

    fn append(&mut self, text: &str, changes: &mut Vec<Change>) {
        if let Some(block) = self.blocks.last_mut().filter(|_| self.open && !text.is_empty()) {
            block.text.push_str(text);
            changes.push(Change::Grown(self.blocks.len() - 1, text.to_owned()));
        }
    }

    fn open(&mut self, kind: Kind, changes: &mut Vec<Change>) {
        self.close(changes);
        self.open = true;
        self.blocks.push(Block { kind, text: String::new(), key: request_id::make("", None, None) });
        changes.push(Change::Opened(self.blocks.len() - 1));
    }

    fn close(&mut self, changes: &mut Vec<Change>) {
        self.space.clear();
        if std::mem::take(&mut self.open) {
            changes.push(Change::Closed(self.blocks.len() - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(parts: Vec<Part>, finish: Option<FinishReason>) -> Piece {
        let (text, logprobs, stop_string) = (String::new(), None, None);
        Piece { token: 0, text, parts, logprobs, finish, stop_string, arrival_time: 0.0 }
    }

    fn content(text: &str) -> Part {
        Part::Content(text.into())
    }

    /// One piece per part: changes in short, and the final blocks.
    fn run(parts: &[Part]) -> (String, Vec<(Kind, String)>) {
        let mut message = Message::default();
        let mut changes: Vec<_> =
            parts.iter().flat_map(|part| message.take(&piece(vec![part.clone()], None))).collect();
        changes.extend(message.take(&piece(Vec::new(), Some(FinishReason::Stop))));
        let short = changes.iter().map(|change| match change {
            Change::Opened(index) => format!("+{index}"),
            Change::Grown(index, text) => format!(" {index}:{text}"),
            Change::Closed(index) => format!(" -{index} "),
        });
        let short = short.collect();
        (short, message.blocks.into_iter().map(|block| (block.kind, block.text)).collect())
    }

    #[test]
    fn blocks_follow_each_other_and_each_is_closed() {
        let parts = [
            Part::Reasoning("Hm".into()),
            Part::Reasoning(".".into()),
            content("\n\n"),
            content("Yes"),
            content(" "),
            Part::Call { index: 0, name: "f".into() },
            Part::Arguments { index: 0, text: "{".into() },
            Part::Arguments { index: 0, text: "}".into() },
            content("\n"),
            Part::Call { index: 1, name: "g".into() },
        ];
        let (changes, blocks) = run(&parts);
        assert_eq!(changes, "+0 0:Hm 0:. -0 +1 1:\n\nYes 1:  -1 +2 2:{ 2:} -2 +3 -3 ");
        let call = |name: &str, text: &str| (Kind::Call(name.into()), text.to_owned());
        let expected =
            [(Kind::Reasoning, "Hm.".into()), (Kind::Text, "\n\nYes ".into()), call("f", "{}"), call("g", "")];
        assert_eq!(blocks, expected);
    }

    #[test]
    fn white_space_alone_is_no_text() {
        assert_eq!(run(&[content(" "), content("\n")]).1, []);
        assert_eq!(run(&[content(" "), content("a")]).1, [(Kind::Text, " a".into())]);
    }
}

//! Text between marks, without the white space that only sets the marks apart.

use std::mem;

/// Hands a growing text on, but white space at its ends only once it is known to belong to it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Nothing but white space came since a mark.
    after_mark: bool,
    /// The text before that mark needs no more white space to be parted from what comes.
    parted: bool,
    /// White space behind the text, which may belong to a mark or to the end.
    held: String,
    /// Whether anything but white space came since the last mark.
    begun: bool,
    /// Whether anything was handed on at all.
    any: bool,
}

impl Flow {
    /// A text that begins behind a mark.
    pub fn behind_mark() -> Self {
        Self { after_mark: true, parted: true, ..Self::default() }
    }

    /// Takes more of the text; what can be handed on, possibly nothing.
    pub fn push(&mut self, text: &str) -> String {
        let text = if self.after_mark && self.parted { text.trim_start_matches(is_space) } else { text };
        let kept = text.trim_end_matches(is_space);
        if kept.is_empty() {
            self.held.push_str(text);
            return String::new();
        }
        (self.after_mark, self.begun, self.any) = (false, true, true);
        let mut out = mem::take(&mut self.held);
        out.push_str(kept);
        self.held.push_str(&text[kept.len()..]);
        out
    }

    /// A mark stands here. White space before it only parts what was handed on from what may still come.
    pub fn mark(&mut self) {
        if !self.any {
            self.held.clear();
        }
        self.parted = !self.any || !self.held.is_empty();
        (self.after_mark, self.begun) = (true, false);
    }

    /// Whether anything but white space came since the beginning or the last mark.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The white space at the end of everything, unless it stands before a mark.
    pub fn finish(&mut self) -> String {
        let held = mem::take(&mut self.held);
        if self.after_mark { String::new() } else { held }
    }
}

pub(crate) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\n' | '\r' | '\t')
}

//! Text between markers, without the white space that only sets the markers apart.

use std::mem;

/// Hands a growing text on, but white space at its ends only once it is known to belong to it.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Nothing but white space came since a marker.
    after_marker: bool,
    /// The text before that marker needs no more white space to be parted from what comes.
    parted: bool,
    /// White space behind the text, which may belong to a marker or to the end.
    held: String,
    /// Whether anything but white space came since the last marker.
    begun: bool,
    /// Whether anything was handed on at all.
    any: bool,
}

impl Flow {
    /// A text that begins behind a marker.
    pub fn behind_marker() -> Self {
        Self { after_marker: true, parted: true, ..Self::default() }
    }

    /// Takes more of the text; what can be handed on, possibly nothing.
    pub fn push(&mut self, text: &str) -> String {
        let text = if self.after_marker && self.parted { text.trim_start_matches(is_space) } else { text };
        let kept = text.trim_end_matches(is_space);
        if kept.is_empty() {
            self.held.push_str(text);
            return String::new();
        }
        (self.after_marker, self.begun, self.any) = (false, true, true);
        let mut out = mem::take(&mut self.held);
        out.push_str(kept);
        self.held.push_str(&text[kept.len()..]);
        out
    }

    /// A marker stands here. White space before it only parts what was handed on from what may still come.
    pub fn mark(&mut self) {
        if !self.any {
            self.held.clear();
        }
        self.parted = !self.any || !self.held.is_empty();
        (self.after_marker, self.begun) = (true, false);
    }

    /// Whether anything but white space came since the beginning or the last marker.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// The white space at the end of everything, unless it stands before a marker.
    pub fn finish(&mut self) -> String {
        let held = mem::take(&mut self.held);
        if self.after_marker { String::new() } else { held }
    }
}

pub(crate) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\n' | '\r' | '\t')
}

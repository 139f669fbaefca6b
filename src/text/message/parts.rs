//! Collects a message's parts: neighbours of a kind become one.

use super::Part;

/// The parts of one piece of text, and how many calls there were before them.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    list: Vec<Part>,
    calls: usize,
    ended: usize,
}

impl Parts {
    /// More of the answer.
    pub fn content(&mut self, text: String) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Content(before)) => before.push_str(&text),
            _ => self.list.push(Part::Content(text)),
        }
    }

    /// More of the thoughts.
    pub fn reasoning(&mut self, text: String) {
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Reasoning(before)) => before.push_str(&text),
            _ => self.list.push(Part::Reasoning(text)),
        }
    }

    /// A call begins; what [`Self::arguments`] adds belongs to it until the next.
    pub fn call(&mut self, name: &str) {
        self.list.push(Part::Call { index: self.calls, name: name.to_owned() });
        self.calls += 1;
    }

    /// More of the last call's arguments.
    pub fn arguments(&mut self, text: &str) {
        let index = self.calls - 1;
        match self.list.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Arguments { text: before, .. }) => before.push_str(text),
            _ => self.list.push(Part::Arguments { index, text: text.to_owned() }),
        }
    }

    /// The last call is complete.
    pub fn end_call(&mut self) {
        self.ended = self.calls;
    }

    /// Whether so many calls are complete.
    pub fn is_over(&self, calls_max: usize) -> bool {
        self.ended >= calls_max
    }

    /// How many calls there were in the whole message.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Hands the parts out; the count goes on.
    pub fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.list)
    }
}

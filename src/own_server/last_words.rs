//! What a process said at last on its standard error, kept for the case that it ends.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::ChildStderr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Lines that are kept.
const LINES_MAX: usize = 30;
/// Bytes of a line that are kept.
const LINE_BYTES_MAX: u64 = 4096;

/// The last lines, growing while the process speaks.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<Mutex<VecDeque<String>>>);

impl LastWords {
    /// Listens on a thread of its own until the process ends.
    pub fn listen(stderr: Option<ChildStderr>) -> Self {
        let words = Self::default();
        let kept = words.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stderr?);
            let mut line = Vec::new();
            while (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()? > 0 {
                kept.keep(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
            Some(())
        });
        words
    }

    /// The lines.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn keep(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let words = LastWords::default();
        (0..LINES_MAX + 5).for_each(|line| words.keep(line.to_string()));
        let text = words.text();
        assert!(text.starts_with("5\n") && text.ends_with("\n34"), "{text}");
    }
}

//! Where a chat's turns come from: an edited line of a terminal, or a line of whatever standard input is.

use std::{
    io::{self, BufRead, Read, stdin},
    path::PathBuf,
};

use rustyline::{Config, DefaultEditor, error::ReadlineError};

use crate::user_data;

/// Lines that are remembered from one chat to the next.
const HISTORY_LINES_MAX: usize = 1000;
/// The longest turn, bytes.
const TURN_BYTES_MAX: usize = 16 << 20;

/// Where turns come from.
pub enum Input {
    /// A person.
    Terminal(Box<Editor>),
    /// A program or a file.
    Pipe,
}

/// Lines edited on a terminal, with their history.
pub struct Editor {
    lines: DefaultEditor,
    history: Option<PathBuf>,
}

/// One line, or why there is none.
enum Line {
    Text(String),
    /// Ctrl-C: what was typed is thrown away.
    Dropped,
    End,
}

/// One turn, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// What was said; several lines where it was meant so.
    Text(String),
    /// Ctrl-C.
    Dropped,
    /// Nothing follows.
    End,
}

impl Input {
    /// An editor for a terminal.
    pub fn terminal() -> Result<Self, String> {
        let fault = |error: ReadlineError| format!("the terminal can't be used: {error}");
        let config = Config::builder().max_history_size(HISTORY_LINES_MAX).map_err(fault)?.build();
        let mut lines = DefaultEditor::with_config(config).map_err(fault)?;
        let history = user_data::folder().map(|folder| folder.join("chat_history"));
        if let Some(path) = &history {
            // The first chat has no history yet.
            let _ = lines.load_history(path);
        }
        Ok(Self::Terminal(Box::new(Editor { lines, history })))
    }

    /// The next turn. A trailing backslash, or `"""` before and after, make one turn of several lines.
    pub fn next(&mut self) -> Result<Turn, String> {
        let turn = join(|continued| self.line(continued))?;
        if let (Self::Terminal(editor), Turn::Text(text)) = (self, &turn) {
            editor.remember(text);
        }
        Ok(turn)
    }

    fn line(&mut self, continued: bool) -> Result<Line, String> {
        match self {
            Self::Terminal(editor) => editor.line(if continued { "... " } else { ">>> " }),
            Self::Pipe => piped_line(),
        }
    }
}

impl Editor {
    fn line(&mut self, prompt: &str) -> Result<Line, String> {
        match self.lines.readline(prompt) {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(format!("the terminal failed: {error}")),
        }
    }

    /// Kept at once, so that a chat that is killed has its history too. A folder that can't be written is no reason to
    /// disturb a chat.
    fn remember(&mut self, text: &str) {
        let _ = self.lines.add_history_entry(text);
        if let Some(path) = &self.history {
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = self.lines.append_history(path);
        }
    }
}

fn piped_line() -> Result<Line, String> {
    let mut bytes = Vec::new();
    let fault = |error: io::Error| format!("standard input can't be read: {error}");
    let read = stdin().lock().take(TURN_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes).map_err(fault)?;
    if read == 0 {
        return Ok(Line::End);
    }
    let text = String::from_utf8(bytes).map_err(|_| "standard input is not UTF-8 text".to_owned())?;
    Ok(Line::Text(text.trim_end_matches(['\r', '\n']).to_owned()))
}

const QUOTES: &str = "\"\"\"";

/// Joins lines to a turn; `line` is told whether it goes on.
fn join(mut line: impl FnMut(bool) -> Result<Line, String>) -> Result<Turn, String> {
    let mut text = String::new();
    let (mut quoted, mut continued) = (false, false);
    loop {
        let new = match line(continued)? {
            Line::Text(new) => new,
            Line::Dropped => return Ok(Turn::Dropped),
            // What was begun is sent, as if it had been ended.
            Line::End if continued => return Ok(Turn::Text(text)),
            Line::End => return Ok(Turn::End),
        };
        let mut new = new.as_str();
        if !continued && let Some(rest) = new.trim_start().strip_prefix(QUOTES) {
            (quoted, new) = (true, rest);
        }
        let more = match quoted {
            true => new.trim_end().strip_suffix(QUOTES).map(|last| new = last).is_none(),
            false => new.strip_suffix('\\').map(|rest| new = rest).is_some(),
        };
        if text.len() + new.len() > TURN_BYTES_MAX {
            return Err(format!("a turn may be at most {} MiB long", TURN_BYTES_MAX >> 20));
        }
        text.push_str(new);
        if !more {
            return Ok(Turn::Text(text));
        }
        if !(quoted && text.is_empty()) {
            text.push('\n');
        }
        continued = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], expected: &[&str]) {
        let mut left = lines.iter();
        let mut turns = Vec::new();
        while let Turn::Text(text) =
            join(|_| Ok(left.next().map_or(Line::End, |line| Line::Text((*line).to_owned())))).unwrap()
        {
            turns.push(text);
        }
        assert_eq!(turns, expected, "{lines:?}");
    }

    #[test]
    fn lines_make_turns() {
        check(&["a", "b"], &["a", "b"]);
        check(&["a\\", "b\\", "c", "d"], &["a\nb\nc", "d"]);
        check(&["\"\"\"a", " b\"\"\"", "c"], &["a\n b", "c"]);
        check(&["\"\"\"", "a\\", "", "b", "\"\"\"", "c"], &["a\\\n\nb\n", "c"]);
        check(&["\"\"\"a\"\"\""], &["a"]);
        check(&["a\\"], &["a\n"]);
        check(&["\"\"\"a"], &["a\n"]);
    }

    #[test]
    fn a_dropped_line_drops_its_turn() {
        let mut lines = vec![Line::Dropped, Line::Text("a\\".into())];
        assert_eq!(join(|_| Ok(lines.pop().unwrap_or(Line::End))), Ok(Turn::Dropped));
    }
}

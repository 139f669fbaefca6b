//! How an answer looks: plain for programs, with dimmed thoughts for people.

use std::{
    borrow::Cow,
    env,
    io::{self, Write, stdout},
};

use super::answer::Growth;

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A program, or a person who reads later: the answers' text and nothing else.
    Program,
    /// A person at a terminal.
    Person,
}

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Dimmed,
}

/// Standard output, as an answer is written on it.
#[derive(Debug)]
pub struct Screen {
    reader: Reader,
    colour: bool,
    look: Look,
    at_line_start: bool,
}

impl Screen {
    /// For this reader. `NO_COLOR` (no-color.org) is respected.
    pub fn new(reader: Reader) -> Self {
        let colour = reader == Reader::Person && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { reader, colour, look: Look::Plain, at_line_start: true }
    }

    /// Writes what an answer grew by. The error is that of standard output: nobody reads any more.
    pub fn grow(&mut self, growth: &Growth) -> io::Result<()> {
        match (growth, self.reader) {
            (Growth::Text(text), _) => self.write(text, Look::Plain),
            (Growth::Reasoning(text) | Growth::Call(text), Reader::Person) => self.write(text, Look::Dimmed),
            // A program that asked for no tools and no thoughts is not told of them.
            _ => Ok(()),
        }
    }

    /// Ends an answer with a line of its own, and figures for people.
    pub fn end(&mut self, figures: Option<&str>) -> io::Result<()> {
        self.write("\n", Look::Plain)?;
        match figures.filter(|_| self.reader == Reader::Person) {
            Some(figures) => self.write(&format!("[{figures}]\n"), Look::Dimmed),
            None => Ok(()),
        }?;
        self.write("", Look::Plain)
    }

    /// A line of the program itself, for people.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        match self.reader {
            Reader::Person => {
                let line = if self.at_line_start { format!("{text}\n") } else { format!("\n{text}\n") };
                self.write(&line, Look::Dimmed)?;
                self.write("", Look::Plain)
            }
            Reader::Program => writeln!(io::stderr(), "{text}"),
        }
    }

    fn write(&mut self, text: &str, look: Look) -> io::Result<()> {
        let mut out = stdout().lock();
        if look != self.look {
            // Between thoughts and the answer there is a line's end.
            if !self.at_line_start && !text.is_empty() && !text.starts_with('\n') {
                out.write_all(b"\n")?;
            }
            if self.colour {
                out.write_all(if look == Look::Dimmed { b"\x1b[2m" } else { b"\x1b[22m" })?;
            }
            self.look = look;
        }
        let shown = match self.reader {
            Reader::Person => harmless(text),
            Reader::Program => Cow::Borrowed(text),
        };
        out.write_all(shown.as_bytes())?;
        self.at_line_start = text.chars().last().map_or(self.at_line_start, |last| last == '\n');
        out.flush()
    }
}

/// Without control characters: a model must not move a terminal's cursor, nor do worse.
fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    match text.contains(harmful) {
        true => Cow::Owned(text.chars().filter(|&letter| !harmful(letter)).collect()),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_left_out() {
        assert_eq!(harmless("a\x1b[2Jb\tc\nd\u{9b}e\r"), "a[2Jb\tc\nde");
    }
}

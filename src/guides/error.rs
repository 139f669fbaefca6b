//! What can be wrong with a grammar.

/// A grammar that can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The client's fault: it is wrong, too large, or asks for what can't be promised. One line that tells where.
    #[error("{0}")]
    Refused(String),
    /// The client's, where it may not ask for any: the server was started so.
    #[error("structured output is off; the server was started with --guided-decoding-backend off")]
    Off,
    /// Nobody's: other grammars that take long are being compiled; later there is room.
    #[error("too many large grammars are being compiled; try again")]
    Busy,
    /// Ours: the model's vocabulary can't be used for grammars at all.
    #[error("grammars can't be used with this model: {0}")]
    NoVocabulary(String),
}

/// Longest message of the library that is passed on, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

impl GrammarError {
    /// The client's fault, in a sentence.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }
}

/// A message of the library as one line. After the message it draws the place, or tells its own state.
pub(super) fn one_line(message: &str) -> String {
    if message.starts_with("panic") {
        return "it is beyond what can be compiled".to_owned();
    }
    if let Some(fault) = fault_of_regex(message) {
        return shortened(&fault);
    }
    let is_drawing = |line: &&str| {
        let text = line.trim_start();
        text.is_empty() || text.starts_with(|first: char| first == '<' || first == '^' || first.is_ascii_digit())
    };
    let mut lines = message.lines();
    let first = place_in_words(lines.next().unwrap_or_default());
    let more = lines.take_while(|line| !is_drawing(line)).map(str::trim);
    shortened(&std::iter::once(first.as_str()).chain(more).collect::<Vec<_>>().join(", "))
}

/// `at 2(5): …` is line 2, column 5.
fn place_in_words(line: &str) -> String {
    let place = |line: &str| {
        let (place, message) = line.strip_prefix("at ").unwrap_or(line).split_once("): ")?;
        let (row, column) = place.split_once('(')?;
        let (row, column) = (row.parse::<u32>().ok()?, column.parse::<u32>().ok()?);
        Some(format!("line {row}, column {column}: {message}"))
    };
    place(line).unwrap_or_else(|| line.to_owned())
}

/// The regular expressions' parser draws the expression, marks below it, then says what is wrong.
fn fault_of_regex(message: &str) -> Option<String> {
    let drawing = message.split_once("regex parse error:")?.1;
    let fault = drawing.lines().find_map(|line| line.strip_prefix("error: "))?;
    let marks = drawing.lines().find(|line| line.contains('^') && line.trim_matches([' ', '^']).is_empty());
    // The drawing is indented by four.
    let column = marks.and_then(|line| line.find('^')).map(|at| at.saturating_sub(3)).filter(|&column| column > 0);
    Some(match column {
        Some(column) => format!("the regular expression is wrong at character {column}: {fault}"),
        None => format!("the regular expression is wrong: {fault}"),
    })
}

pub(super) fn shortened(line: &str) -> String {
    if line.len() <= MESSAGE_BYTES_MAX {
        return line.to_owned();
    }
    let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
    format!("{}…", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line_without_internals() {
        let long = "x".repeat(1000);
        for (message, expected) in [
            ("Invalid type: strin", "Invalid type: strin"),
            (
                "at 2(6): unknown name: \"bar\"\n   1 | start: foo\n   2 | foo: bar\n     |      ^\n",
                "line 2, column 6: unknown name: \"bar\"",
            ),
            ("2(6): lexer error\n   1 | %", "line 2, column 6: lexer error"),
            ("no\n  while processing #/$defs/a\n<state>\nTokens\n</state>", "no, while processing #/$defs/a"),
            ("panic: index 7\n<backtrace>\n0: std", "it is beyond what can be compiled"),
            (
                "at 1(8): invalid regex \"b(?=a)\" (in regex): regex parse error:\n    b(?=a)\n     ^^^\nerror: no look-around\n",
                "the regular expression is wrong at character 2: no look-around",
            ),
            (&long, &format!("{}…", &long[..MESSAGE_BYTES_MAX])),
        ] {
            assert_eq!(one_line(message), expected);
        }
    }
}

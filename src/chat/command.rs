//! What a line means that begins with a slash.

/// What can be told to a chat beside what is told to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// What there is.
    Help,
    /// Forget the conversation.
    Clear,
    /// Show or change what the model is told before.
    System(Option<String>),
    /// Write the conversation to a file.
    Save(String),
    /// Take back the last question and its answer.
    Undo,
    /// Answer the last question again.
    Retry,
    /// Leave.
    Quit,
}

/// What `/help` prints.
pub const HELP: &str = "\
/clear         forget the conversation
/system TEXT   what the model is told before the conversation; without TEXT: show it; with -: nothing
/save FILE     write the conversation to a new file, as JSON
/undo          take back the last question and its answer
/retry         answer the last question again
/quit          leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on; \"\"\" begins and ends several lines.
//text sends a text that begins with a slash.";

/// A line: a command, or a text for the model.
pub fn read(line: &str) -> Result<Command, Text<'_>> {
    let Some(command) = line.strip_prefix('/') else { return Err(Text::ForModel(line)) };
    if command.starts_with('/') {
        return Err(Text::ForModel(command));
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let rest = rest.trim();
    Ok(match (name, rest) {
        ("help" | "?", "") => Command::Help,
        ("clear" | "reset", "") => Command::Clear,
        ("system", "") => Command::System(None),
        ("system", text) => Command::System(Some(text.to_owned())),
        ("save", file) if !file.is_empty() => Command::Save(file.to_owned()),
        ("undo", "") => Command::Undo,
        ("retry", "") => Command::Retry,
        ("quit" | "exit" | "bye", "") => Command::Quit,
        _ => return Err(Text::UnknownCommand(line)),
    })
}

/// A line that is no command.
#[derive(Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// What the model shall read.
    ForModel(&'a str),
    /// What looks like a command and is none.
    UnknownCommand(&'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        for (line, expected) in [
            ("Hello /help", Err(Text::ForModel("Hello /help"))),
            ("//etc/passwd?", Err(Text::ForModel("/etc/passwd?"))),
            ("/help", Ok(Command::Help)),
            ("/system", Ok(Command::System(None))),
            ("/system  Be brief. ", Ok(Command::System(Some("Be brief.".into())))),
            ("/save a b.json", Ok(Command::Save("a b.json".into()))),
            ("/save", Err(Text::UnknownCommand("/save"))),
            ("/clear all", Err(Text::UnknownCommand("/clear all"))),
            ("/nonsense", Err(Text::UnknownCommand("/nonsense"))),
            ("/", Err(Text::UnknownCommand("/"))),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }
}

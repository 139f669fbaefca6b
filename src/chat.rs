//! `shardwire chat` and `shardwire complete`: a conversation on the terminal, or one turn per line of a pipe.

mod answer;
mod command;
mod conversation;
mod input;
mod screen;

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write, stdin, stdout},
    process::ExitCode,
};

use crossbeam::{channel::Receiver, select};
use serde_json::json;

use self::{
    answer::{Growth, Pace},
    command::{Command, HELP, Text},
    conversation::Conversation,
    input::{Input, Turn},
    screen::{Reader, Screen},
};
use crate::{
    config::ChatFlags,
    interrupts::{self, Interrupt},
    own_server::{self, ReachError, Reached},
};

/// An answer failed, and no person was there to ask again.
const FAILED: u8 = 1;
/// There is no server.
const REFUSED: u8 = 2;
/// Ctrl-C, as shells tell it.
const INTERRUPTED: u8 = 130;

/// How a text is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// By an assistant that remembers the conversation.
    Chat,
    /// By its continuation; each text stands alone.
    Complete,
}

/// Whether a session goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Turn,
    Leave(u8),
}

/// Talks until the end of the input. Exit code 0; without a terminal 1 if an answer failed; 2: there is no server to speak
/// to; 130: Ctrl-C.
pub fn run(flags: &ChatFlags, manner: Manner) -> ExitCode {
    let outcome = Session::open(flags, manner).and_then(|mut session| session.talk(flags));
    let (code, why) = match outcome {
        Ok(code) => return ExitCode::from(code),
        Err(ReachError::Refused(why)) => (REFUSED, why),
        Err(ReachError::Interrupted) => (INTERRUPTED, "interrupted".into()),
    };
    eprintln!("shardwire: {why}");
    ExitCode::from(code)
}

/// A conversation with a server.
struct Session {
    server: Reached,
    interrupts: Receiver<Interrupt>,
    conversation: Conversation,
    screen: Screen,
    reader: Reader,
    quiet: bool,
}

impl Session {
    fn open(flags: &ChatFlags, manner: Manner) -> Result<Self, ReachError> {
        let interrupts = interrupts::keys().map_err(ReachError::Refused)?;
        let server = own_server::reach(&flags.server, None, &interrupts)?;
        let at_terminal = flags.quick.is_none() && stdin().is_terminal() && stdout().is_terminal();
        let reader = if at_terminal { Reader::Person } else { Reader::Program };
        // A server of its own serves one model, whatever it is called.
        let model = flags.model.clone().filter(|_| flags.server.url.is_some());
        let conversation = Conversation::new(manner, model, flags.system.clone(), flags.sampling.clone());
        Ok(Self { server, interrupts, conversation, screen: Screen::new(reader), reader, quiet: flags.quiet })
    }

    /// Takes turns; the exit code.
    fn talk(&mut self, flags: &ChatFlags) -> Result<u8, ReachError> {
        if let Some(text) = &flags.quick {
            return Ok(match self.converse(text).unwrap_or(Next::Leave(FAILED)) {
                Next::Leave(code) => code,
                Next::Turn => 0,
            });
        }
        let mut input = match self.reader {
            Reader::Person => Input::terminal().map_err(ReachError::Refused)?,
            Reader::Program => Input::Pipe,
        };
        if self.reader == Reader::Person {
            // A terminal that is gone already ends the loop below.
            let _ = self.screen.say("/help tells the commands; Ctrl-D leaves");
        }
        loop {
            let next = match input.next().map_err(ReachError::Refused)? {
                Turn::Text(text) if text.trim().is_empty() => Next::Turn,
                Turn::Text(text) => self.take(&text).unwrap_or(Next::Leave(FAILED)),
                Turn::Dropped => Next::Turn,
                Turn::End => Next::Leave(0),
            };
            if let Next::Leave(code) = next {
                return Ok(code);
            }
        }
    }

    fn take(&mut self, text: &str) -> io::Result<Next> {
        match command::read(text) {
            Ok(command) => self.obey(command),
            Err(Text::ForModel(text)) => self.converse(text),
            Err(Text::UnknownCommand(line)) => {
                self.screen.say(&format!("{line}: no such command; /help tells them, //text sends a slash"))?;
                Ok(Next::Turn)
            }
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<Next> {
        match command {
            Command::Help => self.screen.say(HELP)?,
            Command::Clear => self.conversation.clear(),
            Command::System(None) => {
                let system = self.conversation.system().unwrap_or("(nothing)").to_owned();
                self.screen.say(&system)?;
            }
            Command::System(Some(text)) => self.conversation.set_system(Some(text).filter(|text| text != "-")),
            Command::Save(file) => {
                let said =
                    self.save(&file).map_or_else(|error| format!("{file}: {error}"), |()| format!("saved {file}"));
                self.screen.say(&said)?;
            }
            Command::Undo => match self.conversation.undo() {
                Some(question) => self.screen.say(&format!("taken back: {question}"))?,
                None => self.screen.say("nothing was asked yet")?,
            },
            Command::Retry => match self.conversation.undo() {
                Some(question) => return self.converse(&question),
                None => self.screen.say("nothing was asked yet")?,
            },
            Command::Quit => return Ok(Next::Leave(0)),
        }
        Ok(Next::Turn)
    }

    /// Never over a file that is there.
    fn save(&self, file: &str) -> io::Result<()> {
        let text = serde_json::to_string_pretty(&json!({"messages": self.conversation.messages()}))?;
        OpenOptions::new().write(true).create_new(true).open(file)?.write_all(format!("{text}\n").as_bytes())
    }

    /// One question and its answer, shown as it comes.
    fn converse(&mut self, text: &str) -> io::Result<Next> {
        self.conversation.ask(text);
        // A Ctrl-C from before the question is not meant for its answer.
        while self.interrupts.try_recv().is_ok() {}
        let growth = answer::begin(&self.server.remote, self.conversation.path(), &self.conversation.request());
        let (mut said, mut pace) = (String::new(), Pace::start());
        let ending = loop {
            let new = select! {
                recv(growth) -> new => new.unwrap_or_else(|_| Growth::Failed("the answer broke off".into())),
                recv(self.interrupts) -> _ => break Ending::Stopped,
            };
            pace.note(&new);
            match new {
                Growth::End => break Ending::Whole,
                Growth::Failed(why) => break Ending::Failed(why),
                Growth::Text(ref text) => said.push_str(text),
                _ => {}
            }
            self.screen.grow(&new)?;
        };
        drop(growth);
        self.conclude(said, &pace, ending)
    }

    fn conclude(&mut self, said: String, pace: &Pace, ending: Ending) -> io::Result<Next> {
        let figures = (!self.quiet).then(|| pace.line());
        match ending {
            Ending::Whole => {
                self.conversation.answered(said);
                self.screen.end(figures.as_deref())?;
                Ok(Next::Turn)
            }
            Ending::Stopped => {
                // What was read is part of the conversation; the model may be asked to go on.
                self.conversation.answered(said);
                self.screen.end(Some("stopped"))?;
                Ok(if self.reader == Reader::Person { Next::Turn } else { Next::Leave(INTERRUPTED) })
            }
            Ending::Failed(why) => {
                self.conversation.undo();
                let why = self.server.obituary().unwrap_or(why);
                self.screen.say(&format!("no answer: {why}"))?;
                Ok(if self.reader == Reader::Person { Next::Turn } else { Next::Leave(FAILED) })
            }
        }
    }
}

/// How an answer ended.
enum Ending {
    Whole,
    Stopped,
    Failed(String),
}

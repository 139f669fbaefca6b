//! The side that answers: a process of its own.

use std::{
    io::{BufRead, stdin},
    process::ExitCode,
    time::Duration,
};

use super::{
    EchoConfig, attach, stay_on, waiting,
    word::{Word, now},
};
use crate::{
    child,
    link::{
        LinkError,
        name::Role,
        ring::{RingReader, RingWriter},
    },
};

/// How long to sleep without a frame before looking again, and how long the asker may leave its ring full.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole life of an echo process: it ends with its standard input, or its asker.
pub fn run() -> ExitCode {
    let Err(error) = live() else { return ExitCode::SUCCESS };
    eprintln!("shardwire: the link's echo: {error}");
    ExitCode::FAILURE
}

fn live() -> Result<(), String> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    let config: EchoConfig = serde_json::from_str(&line).map_err(|error| format!("its configuration: {error}"))?;
    child::belong_to_parent(0).map_err(|error| error.to_string())?;
    stay_on(config.core);
    answer(&config).map_err(|error| error.to_string())
}

/// Answers frame after frame.
fn answer(config: &EchoConfig) -> Result<(), LinkError> {
    let (name, waiting) = (config.link.parse()?, waiting(config.spin));
    let mut asked = RingReader::new(attach(name, Role::Steps)?, 0, waiting)?;
    let mut answers = RingWriter::new(attach(name, Role::Reports)?, waiting)?;
    loop {
        let Some(frame) = asked.take(PATIENCE)? else { continue };
        match Word::read(frame) {
            Some(Word::Return) => answers.publish(frame, PATIENCE)?,
            Some(Word::Stamp(said)) => answers.publish(&now().saturating_sub(said).to_le_bytes(), PATIENCE)?,
            Some(Word::Pass) => {}
            None => return Err(LinkError::Config("a frame without a word".into())),
        }
    }
}

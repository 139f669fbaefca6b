//! `shardwire bench`: how fast a server is, measured from outside as its clients see it; and how fast this machine's
//! [`kernels`] and its [`link`] are, beside what it could do, told as a [`sheet`].
//!
//! Of a server: a [`session`] reaches or starts the server; [`probing`] finds out how it counts tokens; a [`workload`] makes requests of
//! wanted lengths ([`prompts`], [`lengths`], or questions out of a file, [`sharegpt`]). [`load`] sends them on one thread
//! ([`client`], [`framing`], [`sse`]) and times each [`answer`]; [`levels`] repeats that, and [`figures`] are what it comes
//! down to. [`recover`] kills the server's ranks meanwhile; [`overhead`] has none that compute. They are told with their [`conditions`] as a [`table`], a file ([`results`]) and a picture ([`mod@plot`]).

mod answer;
mod arrivals;
mod client;
mod conditions;
mod failure;
mod figures;
mod framing;
mod kernels;
mod latency;
mod lengths;
mod levels;
mod link;
mod load;
mod memory;
mod overhead;
mod plot;
mod probing;
mod progress;
mod prompts;
mod recover;
mod results;
mod serve;
mod session;
mod sharegpt;
mod sheet;
mod sse;
mod stop;
mod table;
mod target;
mod throughput;
mod workload;

use std::process::ExitCode;

use self::{levels::Level, load::Ended, session::Session};
use crate::{
    config::{BenchCommand, BenchFlags},
    own_server::ReachError,
};

/// Some requests have no answer.
const SOME_FAILED: u8 = 1;
/// Nothing can be measured like this.
const REFUSED: u8 = 2;
/// Ctrl-C, as shells tell it.
const INTERRUPTED: u8 = 130;

/// Why nothing was measured.
#[derive(Debug)]
enum Halt {
    /// For people: what is wrong, and what to do.
    Refused(String),
    /// A signal came first.
    Interrupted,
}

impl From<ReachError> for Halt {
    fn from(error: ReachError) -> Self {
        match error {
            ReachError::Refused(why) => Self::Refused(why),
            ReachError::Interrupted => Self::Interrupted,
        }
    }
}

/// Measures. Exit code 0: every request was answered; 1: some were not; 2: there is no server, or it refuses such requests,
/// or a file can't be used; 130: Ctrl-C (what was measured until then is told).
pub fn run(flags: &BenchFlags) -> ExitCode {
    let outcome = match &flags.command {
        BenchCommand::Serve(flags) => serve::measure(flags),
        BenchCommand::Throughput(flags) => throughput::measure(flags),
        BenchCommand::Latency(flags) => latency::measure(flags),
        BenchCommand::Recover(flags) => recover::measure(flags),
        BenchCommand::Overhead(flags) => overhead::measure(flags),
        BenchCommand::Kernels(flags) => return kernels::run(flags),
        BenchCommand::Link(flags) => return link::run(flags),
        BenchCommand::LinkEcho => return workers::bench::link::run_echo(),
        BenchCommand::EventLoop => return overhead::run_event_loop(),
    };
    let (code, why) = match outcome {
        Ok(code) => return ExitCode::from(code),
        Err(Halt::Refused(why)) => (REFUSED, why),
        Err(Halt::Interrupted) => (INTERRUPTED, "interrupted before anything was measured".into()),
    };
    eprintln!("shardwire bench: {why}");
    ExitCode::from(code)
}

/// The exit code of levels that were measured and told.
fn conclude(session: &mut Session, levels: &[Level], ended: &Ended) -> Result<u8, Halt> {
    let failed = levels.iter().any(|level| level.figures.requests_failed > 0);
    end_of(session, ended, if failed { SOME_FAILED } else { 0 })
}

/// The exit code, `code` where nothing ended the measuring early; says what did.
fn end_of(session: &mut Session, ended: &Ended, code: u8) -> Result<u8, Halt> {
    match ended {
        Ended::Whole => Ok(code),
        Ended::Interrupted => {
            eprintln!("shardwire bench: interrupted; the figures are those of the requests that had ended");
            Ok(INTERRUPTED)
        }
        Ended::ServerGone => {
            eprintln!("shardwire bench: {}", session.obituary());
            Ok(SOME_FAILED)
        }
    }
}

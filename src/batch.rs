//! `shardwire run-batch`: answers a file of requests in OpenAI's batch format.
//!
//! One thread reads the input ([`input`]) and sorts out what can't be sent or was done before; some threads send
//! ([`sending`]); this one writes each record as it comes ([`output`]). The channels between them are short, so a file of
//! any length takes little memory. Whatever ends a run, the same command goes on where it ended.

mod input;
mod line;
mod output;
mod progress;
mod record;
mod sending;

use std::{fs::File, path::Path, process::ExitCode, sync::Arc, thread, time::Duration};

use crossbeam::{
    channel::{Receiver, Sender, TryRecvError, bounded},
    select,
};

use self::{
    input::Reading,
    line::BadLine,
    output::{Earlier, Output},
    progress::Progress,
    record::Record,
    sending::Sending,
};
use crate::{
    config::RunBatchFlags,
    interrupts::{self, Interrupt},
    own_server::{self, ReachError, Reached},
};

/// Some lines have errors.
const SOME_FAILED: u8 = 1;
/// A file that can't be used, or a server that can't be started.
const REFUSED: u8 = 2;
/// The server was lost on the way.
const SERVER_LOST: u8 = 3;
/// Ctrl-C, as shells tell it.
const INTERRUPTED: u8 = 130;

/// What happened to a line, or to the run.
pub enum News {
    /// It has its record.
    Answered(Record),
    /// It can't be sent.
    Refused(Box<BadLine>),
    /// An earlier run wrote its record.
    Skipped,
    /// No server answers any more.
    ServerGone(String),
    /// The input can't be read any further.
    InputFailed(String),
}

/// Why a run ended before its input did.
enum Halt {
    Files(String),
    Server(String),
    Interrupt,
}

/// Runs the batch. Exit code 0: every line was answered; 1: some have errors; 2: a file or the server can't be used; 3: the
/// server was lost; 130: Ctrl-C. After the last two the same command goes on.
pub fn run(flags: &RunBatchFlags) -> ExitCode {
    let outcome = Batch::open(flags).and_then(|batch| batch.run(flags));
    let (code, why) = match outcome {
        Ok(0) => return ExitCode::SUCCESS,
        Ok(failed) => (SOME_FAILED, format!("{failed} lines have errors; {} tells why", flags.output_file.display())),
        Err(Halt::Files(why)) => (REFUSED, why),
        Err(Halt::Server(why)) => (SERVER_LOST, format!("{why}\nthe same command goes on where this ended")),
        Err(Halt::Interrupt) => (INTERRUPTED, "interrupted; the same command goes on where this ended".into()),
    };
    eprintln!("shardwire run-batch: {why}");
    ExitCode::from(code)
}

/// Whether the channel's other end was dropped, which tells all threads to stop.
fn is_stopped(stopped: &Receiver<()>) -> bool {
    stopped.try_recv() == Err(TryRecvError::Disconnected)
}

/// The files of a run.
struct Batch {
    input: File,
    total: Option<u64>,
    output: Output,
    earlier: Earlier,
}

impl Batch {
    fn open(flags: &RunBatchFlags) -> Result<Self, Halt> {
        let told = |path: &Path, error: &dyn std::fmt::Display| Halt::Files(format!("{}: {error}", path.display()));
        let input = File::open(&flags.input_file).map_err(|error| told(&flags.input_file, &error))?;
        if input.metadata().is_ok_and(|meta| meta.is_dir()) {
            return Err(told(&flags.input_file, &"this is a folder"));
        }
        let (output, earlier) =
            Output::open(&flags.output_file, &input).map_err(|error| told(&flags.output_file, &error))?;
        Ok(Self { input, total: input::count_lines(&flags.input_file), output, earlier })
    }

    /// Runs it; how many lines have errors, those of earlier runs included.
    fn run(self, flags: &RunBatchFlags) -> Result<u64, Halt> {
        let interrupts = interrupts::all().map_err(Halt::Server)?;
        let limit = Duration::from_secs(flags.request_timeout);
        let mut server = own_server::reach(&flags.server, Some(limit), &interrupts).map_err(|error| match error {
            ReachError::Refused(why) => Halt::Files(why),
            ReachError::Interrupted => Halt::Interrupt,
        })?;
        let failed_before = self.earlier.failed;
        let (stop, stopped) = bounded(0);
        let (reading, news) = threads(self.earlier, &server, flags, stopped);
        thread::spawn(move || reading.run(self.input));
        let mut writing =
            Writing { output: self.output, progress: Progress::new(self.total), stop: Some(stop), halt: None };
        writing.run(&news, &interrupts);
        println!("{}", writing.progress.finish());
        let failed = failed_before + writing.progress.sum.failed;
        match writing.end() {
            Some(Halt::Server(why)) => Err(Halt::Server(match server.obituary() {
                Some(obituary) => format!("{why}\n{obituary}"),
                None => why,
            })),
            Some(halt) => Err(halt),
            None => Ok(failed),
        }
    }
}

/// Starts the threads that send; what the reader needs, and what they all tell.
fn threads(
    earlier: Earlier,
    server: &Reached,
    flags: &RunBatchFlags,
    stopped: Receiver<()>,
) -> (Reading, Receiver<News>) {
    let parallel = usize::from(flags.parallel);
    let (requests, to_send) = bounded(parallel);
    let (news, told) = bounded(parallel);
    let stopped = Arc::new(stopped);
    for _ in 0..parallel {
        let sending = Sending {
            remote: server.remote.clone(),
            limit: Duration::from_secs(flags.request_timeout),
            requests: to_send.clone(),
            news: news.clone(),
            stopped: stopped.clone(),
        };
        thread::spawn(move || sending.run());
    }
    (Reading { earlier, requests, news, stopped }, told)
}

/// The thread that writes.
struct Writing {
    output: Output,
    progress: Progress,
    /// Dropped to stop the others.
    stop: Option<Sender<()>>,
    halt: Option<Halt>,
}

impl Writing {
    /// Writes until all threads are done, or a second interrupt wants to leave at once.
    fn run(&mut self, news: &Receiver<News>, interrupts: &Receiver<Interrupt>) {
        loop {
            select! {
                recv(news) -> told => match told {
                    Ok(told) => self.take(told),
                    Err(_) => return,
                },
                recv(interrupts) -> interrupt => {
                    let again = matches!(self.halt, Some(Halt::Interrupt)) || interrupt == Ok(Interrupt::System);
                    self.halt(Halt::Interrupt);
                    if again {
                        return;
                    }
                    self.progress.say("stopping after the requests that are under way; Ctrl-C again leaves them");
                }
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Answered(record) => self.write(&record),
            News::Refused(line) => self.write(&Record::refused(*line)),
            News::Skipped => self.progress.skip(),
            News::ServerGone(why) => self.halt(Halt::Server(why)),
            News::InputFailed(why) => self.halt(Halt::Files(format!("the input can't be read: {why}"))),
        }
    }

    fn write(&mut self, record: &Record) {
        // Behind half a record another one could not be read again.
        if matches!(self.halt, Some(Halt::Files(_))) {
            return;
        }
        match self.output.append(record) {
            Ok(()) => self.progress.count(record),
            Err(error) => self.halt(Halt::Files(format!("the output can't be written: {error}"))),
        }
    }

    /// The first reason counts.
    fn halt(&mut self, why: Halt) {
        self.stop = None;
        self.halt.get_or_insert(why);
    }

    fn end(self) -> Option<Halt> {
        let flushed = self.output.finish().err();
        self.halt.or_else(|| flushed.map(|error| Halt::Files(format!("the output can't be written: {error}"))))
    }
}

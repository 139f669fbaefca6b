//! A server that a command starts for itself and ends with itself: this very binary, on a free port of this machine, with
//! a key that nobody else knows.

mod last_words;

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, BufReader, IsTerminal, stderr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crossbeam::{
    channel::{Receiver, bounded},
    select,
};
use indicatif::{ProgressBar, ProgressStyle};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use self::last_words::LastWords;
use crate::{
    config::{self, CommandLine, ServerFlags},
    hub,
    interrupts::Interrupt,
    remote::Remote,
    user_data,
};

/// The path by which a process re-executes the file it runs, even where that was replaced on disk since.
const THIS_BINARY: &str = "/proc/self/exe";
/// How long a start may take; large models are read from slow disks.
const READY_WITHIN: Duration = Duration::from_secs(1800);
/// How long an orderly end may take before it is made shorter, and then once more before it is made by force.
const END_WITHIN: Duration = Duration::from_secs(3);
/// How long a server that broke an answer off may take to be gone.
const DYING_WITHIN: Duration = Duration::from_millis(300);
/// How often an end is looked for.
const END_POLL: Duration = Duration::from_millis(10);

/// The server that a command speaks to.
#[derive(Debug)]
pub struct Reached {
    /// How it is asked.
    pub remote: Remote,
    /// The process, where the command started it.
    own: Option<OwnServer>,
}

/// Why there is no server to speak to.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// Its address makes no sense, or it did not start; with what it said.
    #[error("{0}")]
    Refused(String),
    /// A signal came first.
    #[error("interrupted while the server was starting")]
    Interrupted,
}

/// The server named by `--url`, or a new one. `answer_within` bounds each answer. Call it on the main thread: a server of
/// its own ends with the thread that started it.
pub fn reach(
    flags: &ServerFlags,
    answer_within: Option<Duration>,
    interrupts: &Receiver<Interrupt>,
) -> Result<Reached, ReachError> {
    if let Some(url) = &flags.url {
        let remote = Remote::new(url, flags.api_key.as_deref(), answer_within).map_err(ReachError::Refused)?;
        // A wrong address is told now, not after patience with a server that may come back.
        let told = |error: ureq::Error| ReachError::Refused(format!("{}: {error}", remote.url("")));
        remote.get("/livez").map_err(told)?;
        return Ok(Reached { remote, own: None });
    }
    let key = format!("own-{:032x}", rand::random::<u128>());
    let (own, url) = OwnServer::start(&flags.serve_words, &key, interrupts)?;
    let remote = Remote::new(&url, Some(&key), answer_within).map_err(ReachError::Refused)?;
    Ok(Reached { remote, own: Some(own) })
}

impl Reached {
    /// The server's process, where the command started it.
    pub fn own_pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.child.id())
    }

    /// Why the server is gone, where it was the command's own and has ended by itself.
    pub fn obituary(&mut self) -> Option<String> {
        let own = self.own.as_mut()?;
        let status = own.ended_within(DYING_WITHIN)?;
        Some(format!("its server ended by itself ({status}); it said at last:\n{}", own.last_words.text()))
    }
}

/// A server process; dropping it ends it.
#[derive(Debug)]
struct OwnServer {
    child: Child,
    last_words: LastWords,
}

impl OwnServer {
    /// Starts it and waits until it is ready; the process and its address.
    fn start(words: &[OsString], key: &str, interrupts: &Receiver<Interrupt>) -> Result<(Self, String), ReachError> {
        fetch_model(words, interrupts)?;
        let log_dir = log_dir(words);
        let mut child = command(words, &log_dir, key)
            .spawn()
            .map_err(|error| ReachError::Refused(format!("a server can't be started: {error}")))?;
        let last_words = LastWords::listen(child.stderr.take());
        let first_line = first_line(child.stdout.take());
        let mut server = Self { child, last_words };
        let line = wait_for(&first_line, interrupts, &log_dir)?;
        match line.strip_prefix("Shardwire is ready: ").and_then(|rest| rest.split_whitespace().next()) {
            Some(url) => Ok((server, url.to_owned())),
            None => Err(server.did_not_start()),
        }
    }

    fn did_not_start(&mut self) -> ReachError {
        // Its last line is the reason; the rest of what it said helps where it is not.
        let status = self.ended_within(END_WITHIN).unwrap_or_else(|| "still running".into());
        ReachError::Refused(format!("the server did not start ({status}):\n{}", self.last_words.text()))
    }

    fn ended_within(&mut self, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(END_POLL),
                Ok(None) => return None,
                Ok(Some(status)) => return Some(status.to_string()),
                Err(error) => return Some(error.to_string()),
            }
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // Asked once it lets running requests end; asked twice it does not wait for them.
        for _ in 0..2 {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            if self.ended_within(END_WITHIN).is_some() {
                return;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(words: &[OsString], log_dir: &Option<PathBuf>, key: &str) -> Command {
    let mut command = Command::new(THIS_BINARY);
    command.arg0("shardwire").args(["serve", "--host", "127.0.0.1", "--port", "0", "--end-with-parent"]);
    command.arg(std::process::id().to_string());
    if let Some(folder) = log_dir {
        command.arg("--log-dir").arg(folder);
    }
    // The environment is for this user's eyes only, a command line for everybody's.
    command.args(words).env("SHARDWIRE_API_KEY", key);
    // A terminal's Ctrl-C is for the command, which then ends its server.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command
}

/// Where the server's logs go unless the user names a folder: not into whatever folder a chat is begun in.
fn log_dir(words: &[OsString]) -> Option<PathBuf> {
    let named = words.iter().any(|word| word.to_string_lossy().starts_with("--log-dir="))
        || env::var_os("FD_LOG_DIR").is_some();
    if named { None } else { user_data::folder().map(|folder| folder.join("log")) }
}

/// The first use of a model fetches it: here, where its progress is seen and an interrupt is heard.
fn fetch_model(words: &[OsString], interrupts: &Receiver<Interrupt>) -> Result<(), ReachError> {
    let line = ["shardwire", "serve"].map(OsString::from).into_iter().chain(words.iter().cloned());
    // What is wrong with the words, the server tells.
    let Ok(CommandLine { command: config::Command::Serve(flags) }) = CommandLine::read(line) else { return Ok(()) };
    match hub::model_path_unless(interrupts, flags.model, flags.hub) {
        Some(path) => path.map(drop).map_err(ReachError::Refused),
        None => Err(ReachError::Interrupted),
    }
}

/// Reads the first line on a thread, so that waiting for it has a limit; and whatever follows, so that the pipe never fills.
fn first_line(stdout: Option<ChildStdout>) -> Receiver<String> {
    let (sender, receiver) = bounded(1);
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        sender.send(line).ok()?;
        io::copy(&mut reader, &mut io::sink()).ok()
    });
    receiver
}

/// The ready line; empty where the server ended instead.
fn wait_for(
    first_line: &Receiver<String>,
    interrupts: &Receiver<Interrupt>,
    log_dir: &Option<PathBuf>,
) -> Result<String, ReachError> {
    let spinner = spinner(log_dir);
    let minutes = READY_WITHIN.as_secs() / 60;
    let outcome = select! {
        recv(first_line) -> line => Ok(line.unwrap_or_default()),
        recv(interrupts) -> _ => Err(ReachError::Interrupted),
        default(READY_WITHIN) => Err(ReachError::Refused(format!("the server was not ready within {minutes} minutes"))),
    };
    spinner.finish_and_clear();
    outcome
}

fn spinner(log_dir: &Option<PathBuf>) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let place = log_dir.as_ref().map_or_else(String::new, |folder| format!(" (its logs: {})", folder.display()));
    let style =
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(format!("starting a server{place}"));
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

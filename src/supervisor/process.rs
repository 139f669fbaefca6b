//! One worker process: this very binary again, with its configuration on its standard input and its output in a log.

use std::{
    env,
    ffi::OsString,
    fmt,
    io::{self, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use workers::{link::error::LinkError, worker::WorkerConfig};

use super::{SupervisorConfig, worker_log::WorkerLog};

/// The path by which a process re-executes the file it runs, even where that was replaced on disk since.
const THIS_BINARY: &str = "/proc/self/exe";

/// How often an orderly stop looks whether the process is gone.
const STOP_POLL: Duration = Duration::from_millis(5);

/// A worker process, from its birth until it is reaped. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    rank: usize,
    child: Child,
    /// The write end of the death pipe: the worker leaves when this closes, be it by our hand or by our death.
    stdin: Option<ChildStdin>,
    log: WorkerLog,
}

impl Worker {
    /// Starts the worker of one rank. `on_exit` runs on a thread of its own as soon as the process has ended.
    ///
    /// Must be called on a thread that outlives the worker: the kernel sends the worker's parent-death signal when the
    /// *thread* that forked it ends.
    pub fn start(
        config: &WorkerConfig,
        SupervisorConfig { log_dir, log_format, library_path, .. }: &SupervisorConfig,
        on_exit: impl FnOnce() + Send + 'static,
    ) -> Result<Self, StartError> {
        let rank = config.rank;
        let log = WorkerLog::open(log_dir, rank)
            .map_err(|source| StartError::Log { path: log_dir.display().to_string(), source })?;
        let outputs =
            log.outputs().map_err(|source| StartError::Log { path: log_dir.display().to_string(), source })?;
        let mut child = Command::new(THIS_BINARY)
            .arg0("shardwire")
            .arg("worker")
            .envs(with_libraries(library_path))
            .env(workers::LOG_FORMAT, log_format.name())
            // Keys are the server's business.
            .env_remove("SHARDWIRE_API_KEY")
            .stdin(Stdio::piped())
            .stdout(outputs.0)
            .stderr(outputs.1)
            // A terminal's Ctrl-C is for the server, which then stops its workers in order.
            .process_group(0)
            .spawn()
            .map_err(|source| StartError::Spawn { rank, source })?;
        let stdin = child.stdin.take();
        let mut worker = Self { rank, child, stdin, log };
        worker.log.note_start(config.epoch, worker.pid(), *log_format);
        worker.announce_exit(on_exit).map_err(|source| StartError::Spawn { rank, source })?;
        worker.configure(config);
        Ok(worker)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end without reaping: until [`Worker::reap`] the id stays taken, so a kill can't hit a stranger.
    fn announce_exit(&self, on_exit: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid() as i32);
        let wait = move || {
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
            on_exit();
        };
        thread::Builder::new().name(format!("sw-wait-{}", self.rank)).spawn(wait).map(drop)
    }

    /// Sends the one line of JSON. A worker that is gone already is found by its exit, so a broken pipe is no news.
    fn configure(&mut self, config: &WorkerConfig) {
        let mut line = serde_json::to_vec(config).expect("a worker's configuration is plain data");
        line.push(b'\n');
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(&line);
        }
    }

    /// Lets it leave by itself: its standard input ends.
    pub fn ask_to_leave(&mut self) {
        self.stdin = None;
    }

    /// Whether it is gone within the time left until `deadline`.
    pub fn left_before(&mut self, deadline: Instant) -> bool {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(STOP_POLL),
                Ok(None) => return false,
                _ => return true,
            }
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Exit> {
        self.child.try_wait().ok().flatten().map(Exit)
    }

    /// Sends SIGKILL, which works on a stopped process too.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end, so that no zombie stays.
    pub fn reap(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }

    /// What it last wrote since this start, at most `lines` lines.
    pub fn last_words(&self, lines: usize) -> Vec<String> {
        self.log.last_lines(lines)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// The loader's search path with `folders` in front; unchanged where there are none.
fn with_libraries(folders: &[PathBuf]) -> Option<(&'static str, OsString)> {
    const VARIABLE: &str = "LD_LIBRARY_PATH";
    let present = env::var_os(VARIABLE).unwrap_or_default();
    let all = folders.iter().cloned().chain(env::split_paths(&present));
    let joined = (!folders.is_empty()).then(|| env::join_paths(all).ok()).flatten()?;
    Some((VARIABLE, joined))
}

/// How a process ended, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub ExitStatus);

impl Exit {
    /// Whether SIGKILL ended it, of which the process itself can't tell anything.
    pub fn is_kill(self) -> bool {
        self.0.signal() == Some(Signal::SIGKILL as i32)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "ended with exit code {code}"),
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "was killed by signal {number} ({signal})"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
            (None, None) => f.write_str("ended"),
        }
    }
}

/// Why workers could not even be started: the machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No shared memory to talk through.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No process.
    #[error("the worker of rank {rank} could not be started: {source}")]
    Spawn {
        /// Whose.
        rank: usize,
        /// Why.
        source: io::Error,
    },
    /// No log.
    #[error("the worker logs in {path} could not be written: {source}; choose another folder with --log-dir")]
    Log {
        /// The folder.
        path: String,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_in_words() {
        let check = |raw: i32, expected: &str| assert_eq!(Exit(ExitStatus::from_raw(raw)).to_string(), expected);
        check(0, "ended with exit code 0");
        check(2 << 8, "ended with exit code 2");
        check(9, "was killed by signal 9 (SIGKILL)");
        check(7, "was killed by signal 7 (SIGBUS)");
    }
}

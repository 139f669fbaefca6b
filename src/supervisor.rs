//! Starts, watches and stops the workers; the group of ranks is the unit of restart.
//!
//! One thread, `sw-supervisor`, lives through epochs: start a group, wait until every rank is ready, hand it to the
//! engine, watch it, and on a death, a stall or the engine's alarm take it down and start the next. It sleeps on one
//! channel ([`Event`]); everybody else only reads the [`status`].
//!
//! ```text
//!            spawn            all ready            death · stall · alarm
//!  (start) ────────► loading ──────────► serving ───────────────────────► down ── pause ──► loading …
//!                       │ first start fails                                 │ too many restarts
//!                       └──► LoadFailed (exit 2)                            └──► GaveUp (exit 3)
//! ```

mod cause;
mod cores;
mod group;
mod kv_memory;
mod leftovers;
mod life;
mod loading;
mod neighbours;
mod process;
mod ranks;
mod report;
mod restart;
mod rings;
mod stall;
mod status;
mod worker_log;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use workers::{fault::Fault, worker::WorkerConfig};

use self::{life::Life, status::Status};
use crate::{config::LogFormat, engine::EngineHandle};

pub use cores::{AvailableCores, CorePlan};
pub use report::{GpuReport, RankReport, RanksReport, ReportedState};
pub use rings::ModelSizes;

/// What the supervisor is told at the start.
#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// As every rank gets it. `rank`, `epoch`, `link`, `kv_memory`, `threads`, `cores` and `spin` are filled in
    /// here, per start.
    pub worker: WorkerConfig,
    /// What of the model decides how large the rings are.
    pub model: ModelSizes,
    /// The places of the ranks' GPUs on the PCI bus; none where they compute on the CPU.
    pub gpus: Vec<String>,
    /// Compute threads of a rank; none: cores ÷ ranks.
    pub threads_per_rank: Option<usize>,
    /// Folder of `workerlog.N`.
    pub log_dir: PathBuf,
    /// How their lines are written.
    pub log_format: LogFormat,
    /// Folders of libraries that workers need beyond what the loader looks through.
    pub library_path: Vec<PathBuf>,
    /// With work outstanding and nothing moving for this long, the group is restarted.
    pub stall_timeout: Duration,
    /// Restarts within ten minutes before it gives up.
    pub restarts_max: usize,
    /// What tests want to go wrong in the supervisor's loop.
    pub fault: Option<Fault>,
}

/// What the server must know of the workers' fate. `Ready` comes once per start of the group; nothing follows the
/// other two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every rank is ready, and the engine has the group.
    Ready {
        /// How often the group was started before.
        epoch: u64,
        /// KV blocks that every rank has room for.
        kv_blocks: usize,
        /// Compute threads of each rank.
        threads_per_rank: usize,
    },
    /// The first start failed: one line that names the cause. Exit code 2.
    LoadFailed(String),
    /// Too many restarts: one line that names the last cause. Exit code 3.
    GaveUp(String),
}

/// What happens to the group, as the supervisor's thread hears it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// A worker of this epoch has ended.
    Exited { epoch: u64, rank: usize },
    /// The engine cannot go on with the group.
    Alarm(String),
    /// The server stops.
    Stop,
}

/// Two ends for the engine's complaints, made before the engine and the supervisor so that each can be given its own.
pub fn alarm() -> (Alarm, Alarms) {
    let (sender, receiver) = crossbeam::channel::unbounded();
    (Alarm(sender.clone()), Alarms { sender, receiver })
}

/// Tells the supervisor that the ranks broke the protocol: it treats the group as dead.
#[derive(Debug, Clone)]
pub struct Alarm(Sender<Event>);

impl Alarm {
    /// Raises it; does not wait.
    pub fn raise(&self, reason: impl Into<String>) {
        // Without a receiver the supervisor has ended, and the group with it.
        let _ = self.0.send(Event::Alarm(reason.into()));
    }
}

/// The supervisor's end of [`alarm`].
#[derive(Debug)]
pub struct Alarms {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

/// The workers' guardian. Dropping it stops them.
pub struct Supervisor {
    events: Sender<Event>,
    status: Arc<Status>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Supervisor {
    /// Starts the first group, in the background: the outcomes tell how that goes. Their end without `LoadFailed` or
    /// `GaveUp` means that the supervisor was stopped.
    pub fn start(
        config: SupervisorConfig,
        engine: EngineHandle,
        alarms: Alarms,
    ) -> io::Result<(Self, UnboundedReceiver<Outcome>)> {
        let Alarms { sender: events, receiver } = alarms;
        let (outcomes, fate) = unbounded_channel();
        let status = Arc::new(Status::new(config.worker.world_size, config.stall_timeout, engine.clone()));
        let life = Life { config, engine, status: status.clone(), events: receiver, exits: events.clone(), outcomes };
        // One thread for all spawning: a worker gets its parent-death signal when the thread that forked it ends.
        let thread = thread::Builder::new().name("sw-supervisor".into()).spawn(move || life.live())?;
        Ok((Self { events, status, thread: Mutex::new(Some(thread)) }, fate))
    }

    /// The body of `GET /ranks`, now.
    pub fn ranks(&self) -> RanksReport {
        self.status.report()
    }

    /// Whether every rank is ready and, with work outstanding, moves; else why not, naming the rank: `/health`'s reason.
    pub fn health(&self) -> Result<(), String> {
        self.status.health()
    }

    /// Since its loop last moved. A pause before a restart is one movement, and so is the end of a group.
    pub fn silence(&self) -> Duration {
        self.status.pulse.silence()
    }

    /// Stops every worker and returns when none is left, within about two seconds. Blocks: not for async threads.
    pub fn stop(&self) {
        let _ = self.events.send(Event::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the supervisor's thread had panicked");
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("ranks", &self.ranks()).finish_non_exhaustive()
    }
}

//! `shardwire serve`: wires config, text, engine, supervisor and HTTP together, and lives until a signal or a failure.
//!
//! Order of the start: signals, so that one ends the server in order from the first moment → everything that can be
//! refused without starting anything ([`plan`]) → logs → the port → engine and ranks → HTTP, answering 503 until the
//! ranks are ready → the ready line.

mod certificate;
mod descriptors;
mod listening;
mod logging;
pub(crate) mod memory;
mod notify;
mod plan;
mod throughput;

use std::{
    io::{Write, stderr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use actix_web::{dev::ServerHandle, rt, web};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};
use tokio::{
    signal::unix::{self, SignalKind, signal},
    sync::{Semaphore, mpsc::UnboundedReceiver, oneshot},
    time::timeout,
};

use self::listening::{Listening, Ports};
use crate::{
    api::{Accounts, Admission, Api, ApiKeys, OpenRequests, Rates, ResponseLimits, ResponseStore},
    config::ServeFlags,
    engine::{Engine, EngineHandle},
    liveness::Liveness,
    monitor::{Monitor, Sources},
    supervisor::{Outcome, Supervisor, alarm},
    traces::Traces,
};

pub use self::plan::Plan;

/// Bad arguments, or a model that can't be loaded.
const REFUSED: u8 = 2;
/// The ranks could not be kept alive.
const GAVE_UP: u8 = 3;

/// Why there are no ranks where nobody tells.
const SUPERVISOR_GONE: &str = "the loop that watches the ranks has ended by itself; this is a bug";
const ENGINE_GONE: &str = "the engine's loop has ended by itself; this is a bug";

/// After the last word to the clients, how long the end of everything may take.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often a draining server looks whether it is empty.
const DRAIN_TICK: Duration = Duration::from_millis(20);
/// How long connections may take to send what is left for them.
const FLUSH_LIMIT_S: u64 = 2;

/// Serves until the end; the process's exit code.
pub fn run(mut flags: ServeFlags) -> ExitCode {
    let keys = ApiKeys::new(std::mem::take(&mut flags.api_key));
    let flags = Arc::new(flags);
    if let Some(parent) = flags.end_with_parent
        && let Err(refusal) = end_with_parent(parent)
    {
        return refuse(&refusal);
    }
    match rt::System::new().block_on(serve(&flags, keys)) {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => refuse(&refusal),
    }
}

/// From here on the end of `parent` is an order to end. Its own order may have come too early to be heard.
fn end_with_parent(parent: u32) -> Result<(), String> {
    set_pdeathsig(Signal::SIGTERM).map_err(|error| format!("the end of process {parent} can't be awaited: {error}"))?;
    match getppid().as_raw() == parent as i32 {
        true => Ok(()),
        false => Err(format!("process {parent}, with which this server was to end, is gone")),
    }
}

fn refuse(why: &str) -> ExitCode {
    // Where nobody can be told, the code still does.
    let _ = writeln!(stderr(), "shardwire: {why}");
    ExitCode::from(REFUSED)
}

async fn serve(flags: &Arc<ServeFlags>, keys: ApiKeys) -> Result<u8, String> {
    let mut signals = Signals::new()?;
    notify::preparing();
    let plan = tokio::select! {
        plan = planned(flags.clone()) => plan?,
        () = signals.next() => return Ok(0),
    };
    logging::start(&flags.log_dir, flags.log_format)?;
    for warning in flags.warnings.iter().chain(&plan.warnings) {
        tracing::warn!("{warning}");
    }
    let (model, notes) = (plan.describe(), plan.notes.clone());
    let timeout = Duration::from_secs(flags.timeout_graceful_shutdown);
    let ports = Ports::take(flags)?;
    let (api, fate) = start_computing(flags, keys, plan)?;
    let listening =
        ports.answer(api.clone(), http_threads(flags), flags.cors()).map_err(|error| format!("HTTP: {error}"))?;
    rt::spawn(notify::follow(api.clone()));
    let server = Life { api, fate, signals, drain_limit: timeout, http: listening.handle(), notes };
    Ok(server.live(&listening, &model).await)
}

/// The plan, made on a thread that nobody waits for once a signal has come: it may be fetching a model.
async fn planned(flags: Arc<ServeFlags>) -> Result<Plan, String> {
    let (told, plan) = oneshot::channel();
    let decide = move || drop(told.send(Plan::of(&flags)));
    std::thread::Builder::new().name("sw-plan".into()).spawn(decide).map_err(|error| format!("no thread: {error}"))?;
    plan.await.unwrap_or_else(|_| Err("the start broke the server's own rules; this is a bug".into()))
}

fn http_threads(flags: &ServeFlags) -> usize {
    flags.workers.map_or_else(http_threads_default, usize::from)
}

/// Threads that speak HTTP, where nothing is said: the ranks have most of the cores.
pub fn http_threads_default() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 4).max(1)
}

/// Starts engine and supervisor; what HTTP needs of them, and what becomes of the ranks.
pub fn start_computing(flags: &ServeFlags, keys: ApiKeys, plan: Plan) -> Result<(web::Data<Api>, Fate), String> {
    let (alarm, alarms) = alarm();
    let engine = Engine::start(plan.engine.clone(), Box::new(move |reason| alarm.raise(reason)));
    let (supervisor, outcomes) = Supervisor::start(plan.supervisor, engine.clone(), alarms)
        .map_err(|error| format!("the supervisor's thread can't be started: {error}"))?;
    let supervisor = Arc::new(supervisor);
    let traces = plan.traces.as_ref().map(Traces::start).transpose()?;
    let monitor = Monitor::new(Sources {
        engine: engine.clone(),
        supervisor: supervisor.clone(),
        model: plan.model.name.clone(),
        sequences_max: plan.engine.sequences_max as u64,
        settings: plan.labels,
    });
    rt::spawn(throughput::log(engine.clone()));
    let liveness = Liveness::new(supervisor.clone());
    rt::spawn(liveness.clone().follow(engine.clone()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rates = Rates { requests: flags.rate_limit_requests, tokens: flags.rate_limit_tokens };
    let api = Api {
        model: plan.model,
        engine,
        supervisor,
        liveness,
        monitor,
        traces,
        admission: Admission::new(flags.max_concurrency as usize),
        accounts: Accounts::new(keys.count(), rates),
        keys,
        open: OpenRequests::default(),
        responses: ResponseStore::new(ResponseLimits {
            count: flags.max_stored_responses as usize,
            ..ResponseLimits::default()
        }),
        text_threads: Semaphore::new(cores),
        form_threads: Semaphore::new(cores),
        settings: plan.settings,
    };
    let fate = Fate { outcomes, engine: api.engine.clone() };
    Ok((web::Data::new(api), fate))
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let on = |kind| signal(kind).map_err(|error| format!("signals can't be received: {error}"));
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What becomes of all that computes.
pub struct Fate {
    outcomes: UnboundedReceiver<Outcome>,
    engine: EngineHandle,
}

impl Fate {
    /// What happens next. Loops that end by themselves, because they panicked, are given up as ranks are.
    async fn next(&mut self) -> Outcome {
        tokio::select! {
            outcome = self.outcomes.recv() => outcome.unwrap_or_else(|| Outcome::GaveUp(SUPERVISOR_GONE.into())),
            () = self.engine.ended() => Outcome::GaveUp(ENGINE_GONE.into()),
        }
    }

    /// Waits until no ranks will come any more; why.
    async fn given_up(&mut self) -> String {
        loop {
            if let Outcome::LoadFailed(why) | Outcome::GaveUp(why) = self.next().await {
                return why;
            }
        }
    }
}

/// A server from its first answer to its last.
struct Life {
    api: web::Data<Api>,
    fate: Fate,
    signals: Signals,
    drain_limit: Duration,
    http: ServerHandle,
    /// Told when the ranks are ready for the first time.
    notes: Vec<String>,
}

impl Life {
    /// Lives; the exit code.
    async fn live(mut self, listening: &Listening, model: &str) -> u8 {
        let mut announced = false;
        loop {
            tokio::select! {
                outcome = self.fate.next() => match outcome {
                    Outcome::Ready { threads_per_rank, kv_blocks, epoch } => {
                        self.notes.drain(..).for_each(|note| tracing::info!("{note}"));
                        tracing::info!(epoch, kv_blocks, threads_per_rank, "the ranks are ready");
                        self.api.admission.open();
                        if !std::mem::replace(&mut announced, true) {
                            notify::ready();
                            let plural = if threads_per_rank == 1 { "thread" } else { "threads" };
                            listening.announce(&format!("{model}, {threads_per_rank} {plural} each"));
                        }
                    }
                    Outcome::LoadFailed(why) => {
                        let code = self.end(REFUSED, None).await;
                        refuse(&why);
                        return code;
                    }
                    Outcome::GaveUp(why) => return self.give_up(why).await,
                },
                () = self.signals.next() => {
                    return match self.drain().await {
                        Some(why) => self.give_up(why).await,
                        None => self.end(0, None).await,
                    };
                }
            }
        }
    }

    /// Nobody comes in any more; waits until nobody is inside, the limit is reached or a second signal comes. Where the
    /// ranks were given up meanwhile, nobody inside will be served: answers why.
    async fn drain(&mut self) -> Option<String> {
        self.api.admission.drain();
        notify::stopping();
        tracing::info!(inside = self.api.admission.inside(), limit_s = self.drain_limit.as_secs(), "draining");
        let empty = async {
            while self.api.admission.inside() > 0 {
                tokio::time::sleep(DRAIN_TICK).await;
            }
        };
        tokio::select! {
            biased; // those inside who were told that they won't be served leave, too
            why = self.fate.given_up() => return Some(why),
            done = timeout(self.drain_limit, empty) => match done {
                Ok(()) => tracing::info!("drained"),
                Err(_) => tracing::warn!(inside = self.api.admission.inside(), "the drain limit is reached"),
            },
            () = self.signals.next() => tracing::warn!("a second signal: ending at once"),
        }
        None
    }

    /// The end for want of ranks.
    async fn give_up(self, why: String) -> u8 {
        tracing::error!("{why}");
        self.end(GAVE_UP, Some(why)).await
    }

    /// Tells the remaining clients, stops everything, within a limit. `ranks_lost`: why there will be no ranks any more.
    async fn end(self, code: u8, ranks_lost: Option<String>) -> u8 {
        std::thread::spawn(move || {
            std::thread::sleep(END_LIMIT);
            // Workers follow the end of this process by themselves.
            tracing::error!("the end took too long: leaving");
            std::process::exit(code.into());
        });
        self.api.admission.drain();
        notify::stopping();
        let engine = self.api.engine.clone();
        let last_word = move || match ranks_lost {
            Some(reason) => engine.give_up(reason),
            None => engine.stop(),
        };
        let _ = web::block(last_word).await;
        let flushed = timeout(Duration::from_secs(FLUSH_LIMIT_S), self.http.stop(true)).await;
        if flushed.is_err() {
            self.http.stop(false).await;
        }
        let api = self.api.clone();
        let last_things = move || {
            api.supervisor.stop();
            api.traces.iter().for_each(Traces::end);
        };
        let _ = web::block(last_things).await;
        // A refusal is one line, its own.
        if code != REFUSED {
            tracing::info!(code, "ended");
        }
        code
    }
}

//! A worker's life: load the shard, then take a step → batch → forward → sample → report, until the server is gone.

pub(crate) mod config;
mod error;
mod null;

use std::convert::Infallible;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, Read, Write, stderr, stdin};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kernels::cpu::{Cpu, CpuConfig, Rounding};
use kernels::cuda::{Activations, Cuda, CudaConfig};
use kernels::group::{Group, Membership, Waiting};
use kernels::{Backend, DeviceError};

use crate::child;
use crate::fault::{Fault, Place};
use crate::link::report::StepReport;
use crate::link::step::Step;
use crate::link::vitals::{Phase, RankState};
use crate::link::{ReportWriter, Seat, Segment, StepReader, VitalsWriter, WorkerLink};
use crate::masks::Masks;
use crate::models::PlainType;
use crate::rank::Rank;
use crate::sensing;

pub use config::{CudaChoice, DeviceChoice, WorkerConfig};
pub use error::WorkerError;

/// How long the other ranks may take to attach, once this one has.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest configuration, bytes: paths are its only long part.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// How long to sleep without a step before looking again.
const TAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long the server may leave the return ring full.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the memory in use is measured while steps are taken.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// The whole life of a worker process.
pub fn run() -> ExitCode {
    child::log_to_stderr();
    child::tell_panics();
    let config = match become_worker() {
        Ok(config) => config,
        Err(error) => return give_up("worker", &error),
    };
    let name = format!("rank {}", config.rank);
    let fault = match Fault::ordered(Place::Rank { rank: config.rank, epoch: config.epoch }) {
        Ok(fault) => fault,
        Err(why) => return give_up(&name, &WorkerError::Config(why)),
    };
    let seat = Seat {
        link: &config.link,
        rank: config.rank,
        world_size: config.world_size,
        epoch: config.epoch,
        // Where nothing is computed, waiting would be what is measured.
        spin: config.spin && !matches!(config.device, DeviceChoice::Null(_)),
    };
    let WorkerLink { steps, reports, masks, vitals, meeting } = match WorkerLink::attach(seat) {
        Ok(link) => link,
        Err(error) => return give_up(&name, &error.into()),
    };
    let masks = Masks::new(masks, config.sequences_max);
    let ends = Ends { steps, reports, masks, vitals: &vitals, fault };
    let error = match child::catch_panic(|| live(&config, ends, meeting)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => error,
        Err(panic) => WorkerError::Panic(panic),
    };
    vitals.fail(&one_line(&error));
    give_up(&name, &error)
}

/// What the loop speaks through.
struct Ends<'a> {
    steps: StepReader,
    reports: Option<ReportWriter>,
    masks: Masks,
    vitals: &'a VitalsWriter,
    /// What tests want to go wrong.
    fault: Option<Fault>,
}

/// Loads, then takes step after step; only an error ends it, or the end of standard input.
fn live(config: &WorkerConfig, ends: Ends<'_>, meeting: Arc<Segment>) -> Result<Infallible, WorkerError> {
    let vitals = ends.vitals;
    vitals.state(RankState::Loading);
    vitals.phase(Phase::Load);
    let group = join(config, meeting)?;
    match &config.device {
        DeviceChoice::Null(pause) => null::answer(config, *pause, ends, &group),
        DeviceChoice::Cpu => compute(cpu(config, group)?, config, ends),
        DeviceChoice::Cuda(choice) => {
            child::keep_to(&config.cores); // before there are other threads: they do as this one
            compute(cuda(config, choice, group)?, config, ends)
        }
    }
}

/// The same on a device of whatever kind.
fn compute<B: Backend>(device: B, config: &WorkerConfig, ends: Ends<'_>) -> Result<Infallible, WorkerError> {
    let vitals = ends.vitals;
    vitals.device(&device.name());
    if let Some(sensors) = device.sensors() {
        sensing::watch(sensors, vitals.sensors());
    }
    let started = Instant::now();
    let fault = ends.fault;
    let mut tell_share = |share| {
        vitals.loading(share);
        fault.iter().for_each(|fault| fault.strike_loading());
    };
    let mut rank = Rank::load(device, config, &mut tell_share)?;
    vitals.loading(1.0);
    vitals.kv_blocks(rank.cache_shape().blocks);
    vitals.collective_wait(rank.device().collective_wait());
    report_memory(vitals, &rank);
    tracing::info!(seconds = started.elapsed().as_secs_f32(), kv_blocks = rank.cache_shape().blocks, "loaded");
    rank.device().group().barrier()?; // no step before every rank is in
    vitals.phase(Phase::Idle);
    vitals.state(RankState::Ready);
    let mut measured = Instant::now();
    let mut steps = Steps { ends, choosing: None, free_since: Instant::now() };
    loop {
        steps.follow_next(&mut rank)?;
        if measured.elapsed() >= MEMORY_INTERVAL {
            report_memory(vitals, &rank);
            measured = Instant::now();
        }
    }
}

/// Steps, from the ring to their reports. A device that chooses tokens itself gets the next step before those of the last
/// one are known.
struct Steps<'a> {
    ends: Ends<'a>,
    /// The step whose tokens the device is choosing.
    choosing: Option<Following>,
    /// When the device had done the last step that is done.
    free_since: Instant,
}

/// A step that is being followed.
#[derive(Clone, Copy)]
struct Following {
    began: Instant,
    batch_tokens: usize,
}

impl Steps<'_> {
    /// Begins the next step, and ends one if that is due. Returns without either where no step comes for a while.
    fn follow_next<B: Backend>(&mut self, rank: &mut Rank<B>) -> Result<(), WorkerError> {
        let Some(step) = self.next_unless_chosen(rank)? else {
            if let Some(following) = self.choosing.take() {
                self.settle(rank, following)?;
                self.ends.vitals.phase(Phase::Idle);
            } else {
                self.ends.fault.iter().for_each(|fault| fault.strike_idle());
                self.ends.masks.receive()?; // of sequences that were cancelled: whoever makes masks must not wait for room
            }
            return Ok(());
        };
        let vitals = self.ends.vitals;
        let following = Following { began: Instant::now(), batch_tokens: step.rows() };
        vitals.progress(step.number);
        vitals.phase(Phase::Forward);
        self.ends.fault.iter().for_each(|fault| fault.strike_at(&step));
        let begun = rank.begin(&step)?;
        if let Some(before) = self.choosing.take() {
            self.settle(rank, before)?;
        }
        vitals.phase(Phase::Sample);
        match rank.conclude(begun, &mut self.ends.masks)? {
            None => self.choosing = Some(following),
            Some(report) => {
                self.report(rank, &report, following)?;
                vitals.phase(Phase::Idle);
            }
        }
        Ok(())
    }

    /// The next step; none once the one that is choosing has chosen, or if none comes for a while.
    fn next_unless_chosen<B: Backend>(&mut self, rank: &Rank<B>) -> Result<Option<Step>, WorkerError> {
        if self.choosing.is_none() {
            return Ok(self.ends.steps.take(TAKE_TIMEOUT)?);
        }
        loop {
            if let Some(step) = self.ends.steps.take(Duration::ZERO)? {
                return Ok(Some(step));
            }
            if rank.is_chosen()? {
                return Ok(None);
            }
            thread::yield_now();
        }
    }

    /// Reports the tokens that the device has chosen.
    fn settle<B: Backend>(&mut self, rank: &mut Rank<B>, following: Following) -> Result<(), WorkerError> {
        self.ends.vitals.phase(Phase::Sample);
        let report = rank.settle()?;
        self.report(rank, &report, following)
    }

    fn report<B: Backend>(
        &mut self,
        rank: &Rank<B>,
        report: &StepReport,
        following: Following,
    ) -> Result<(), WorkerError> {
        let vitals = self.ends.vitals;
        vitals.phase(Phase::Report);
        if let Some(reports) = &mut self.ends.reports {
            reports.publish(report, REPORT_TIMEOUT)?;
        }
        // One that began while the step before it was computed has taken what came after that.
        let took = following.began.max(self.free_since).elapsed();
        self.free_since = Instant::now();
        vitals.step_done(took, following.batch_tokens);
        vitals.collective_wait(rank.device().collective_wait());
        Ok(())
    }
}

fn cpu(config: &WorkerConfig, group: Group) -> Result<Cpu, WorkerError> {
    let WorkerConfig { threads, spin, .. } = *config;
    let rounding = match config.weights.plain {
        Some(PlainType::F32) => Rounding::Nothing,
        _ if config.activation_bytes => Rounding::Bytes,
        _ => Rounding::Shorts,
    };
    let open = |path: &PathBuf| match File::options().read(true).write(true).open(path) {
        Ok(file) => Ok(Arc::new(file)),
        Err(source) => Err(WorkerError::KvMemory { path: path.clone(), source }),
    };
    let kv_memory = config.kv_memory.as_ref().map(open).transpose()?;
    let cores = config.cores.clone();
    Ok(Cpu::new(CpuConfig { threads, cores, spin, rounding, kv_memory, ..CpuConfig::default() }, group))
}

fn cuda(config: &WorkerConfig, choice: &CudaChoice, group: Group) -> Result<Cuda, DeviceError> {
    let config = CudaConfig {
        ordinal: config.rank,
        eager: choice.eager,
        nccl_only: choice.nccl_only,
        own_products: choice.own_products,
        activations: if choice.f32 { Activations::F32 } else { Activations::BF16 },
        cache: choice.kernel_cache.clone(),
        prebuilt: choice.kernels.clone(),
        ..CudaConfig::default()
    };
    Cuda::open(config, group)
}

fn become_worker() -> Result<WorkerConfig, WorkerError> {
    let config = read_config()?;
    child::belong_to_parent(config.rank)?;
    Ok(config)
}

fn read_config() -> Result<WorkerConfig, WorkerError> {
    let mut line = String::new();
    let told = stdin().lock().take(CONFIG_BYTES_MAX).read_line(&mut line);
    told.map_err(|error| WorkerError::Config(error.to_string()))?;
    if !line.ends_with('\n') {
        return Err(WorkerError::Config("its line on standard input has no end; was this started by hand?".into()));
    }
    serde_json::from_str(&line).map_err(|error| WorkerError::Config(error.to_string()))
}

fn join(config: &WorkerConfig, meeting: Arc<Segment>) -> Result<Group, WorkerError> {
    if config.world_size == 1 {
        return Ok(Group::solo());
    }
    let membership = Membership {
        rank: config.rank,
        world_size: config.world_size,
        waiting: if config.spin { Waiting::Spin } else { Waiting::Sleep },
        join_timeout: JOIN_TIMEOUT,
    };
    Ok(Group::join(meeting.into_group_memory(), membership)?)
}

fn report_memory<B: Backend>(vitals: &VitalsWriter, rank: &Rank<B>) {
    vitals.memory(child::resident_bytes(), rank.memory_bytes());
}

/// The last words, for people and for the server's log. A panic has had its say.
fn give_up(who: &str, error: &WorkerError) -> ExitCode {
    if !matches!(error, WorkerError::Panic(_)) {
        // Where the log's disk is full, nobody can be told.
        let _ = writeln!(stderr(), "{who}: {}", one_line(error));
    }
    ExitCode::from(error.exit_code())
}

fn one_line(text: &impl Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

//! One start of the group: its workers, what they left in the link, and how they went.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use workers::{
    link::{
        server::{LinkNames, ServerLink},
        vitals::{Vitals, VitalsBoard},
    },
    worker::WorkerConfig,
};

use super::{
    CorePlan, SupervisorConfig,
    cause::Fate,
    kv_memory::KvMemory,
    process::{StartError, Worker},
    ranks::LinkRanks,
    rings::link_config,
};

/// How long workers may take to leave by themselves.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// How many of a dead worker's last lines are told.
const LAST_WORDS: usize = 3;

/// The workers of one epoch. Dropping it kills those that still live.
pub struct Group {
    epoch: u64,
    workers: Vec<Worker>,
    vitals: Arc<VitalsBoard>,
    names: LinkNames,
    /// Ranks in the order of their deaths.
    deaths: Vec<usize>,
}

impl Group {
    /// Makes a fresh link and one worker per rank. `on_exit` is told the rank of a worker as soon as it ends.
    pub fn start(
        config: &SupervisorConfig,
        plan: &CorePlan,
        kv_memory: &KvMemory,
        epoch: u64,
        on_exit: impl Fn(usize) + Clone + Send + 'static,
    ) -> Result<(Self, LinkRanks), StartError> {
        let link = ServerLink::create(&link_config(&config.worker, config.model, epoch))?;
        let mut group = Self { epoch, workers: Vec::new(), vitals: link.vitals, names: link.names, deaths: Vec::new() };
        for rank in 0..config.worker.world_size {
            let worker_config = worker_config(&config.worker, plan, &group, rank);
            let worker_config = WorkerConfig { kv_memory: kv_memory.path_for(rank), ..worker_config };
            let on_exit = on_exit.clone();
            group.workers.push(Worker::start(&worker_config, config, move || on_exit(rank))?);
        }
        Ok((group, LinkRanks::new(link.steps, link.reports, link.masks)))
    }

    /// How often the group was started before.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The ranks' processes, in order.
    pub fn pids(&self) -> Vec<u32> {
        self.workers.iter().map(Worker::pid).collect()
    }

    /// Where the ranks leave their vitals.
    pub fn board(&self) -> Arc<VitalsBoard> {
        self.vitals.clone()
    }

    /// All ranks' vitals, now.
    pub fn vitals(&self) -> Vec<Vitals> {
        self.vitals.read_all()
    }

    /// Takes the link's names away once every rank has attached: from then on nothing can stay in `/dev/shm`.
    pub fn unlink_when_attached(&mut self) {
        if self.vitals.all_attached() {
            self.names.unlink();
        }
    }

    /// Notes that a rank has died or said that it must, and when: the first is likely the cause of the others.
    pub fn note_death(&mut self, rank: usize) {
        if !self.deaths.contains(&rank) {
            self.deaths.push(rank);
        }
    }

    /// What became of the ranks that died, the earliest first.
    pub fn fates(&mut self) -> Vec<Fate> {
        let deaths = self.deaths.clone();
        let fate = |rank: usize| {
            let worker = &mut self.workers[rank];
            let (pid, exit, last_words) = (worker.pid(), worker.ended(), worker.last_words(LAST_WORDS));
            Fate { rank, pid, exit, error: self.vitals.read(rank).error, last_words }
        };
        deaths.into_iter().map(fate).collect()
    }

    /// Ends every worker at once.
    pub fn kill(mut self) {
        self.workers.iter_mut().for_each(Worker::kill);
        self.workers.iter_mut().for_each(Worker::reap);
    }

    /// Lets every worker leave by itself, and kills those that don't in time.
    pub fn stop(mut self) {
        self.workers.iter_mut().for_each(Worker::ask_to_leave);
        let deadline = Instant::now() + LEAVE_WITHIN;
        for worker in &mut self.workers {
            if !worker.left_before(deadline) {
                tracing::warn!(pid = worker.pid(), "a worker did not leave when asked; killing it");
                worker.kill();
            }
        }
        self.workers.iter_mut().for_each(Worker::reap);
    }
}

fn worker_config(template: &WorkerConfig, plan: &CorePlan, group: &Group, rank: usize) -> WorkerConfig {
    WorkerConfig {
        rank,
        epoch: group.epoch,
        link: group.names.name(),
        threads: plan.threads_per_rank,
        cores: plan.cores[rank].clone(),
        spin: plan.spin,
        ..template.clone()
    }
}

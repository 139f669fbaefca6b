//! One start of the group: its workers, what they left in the link, and how they went.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use workers::{
    link::{
        sampling::{LOGPROBS_MAX, STOP_TOKENS_MAX},
        server::{LinkConfig, LinkNames, ServerLink},
        vitals::{Vitals, VitalsBoard},
    },
    meeting_bytes,
    worker::WorkerConfig,
};

use super::{
    CorePlan, SupervisorConfig,
    cause::Fate,
    process::{StartError, Worker},
    ranks::LinkRanks,
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
        epoch: u64,
        on_exit: impl Fn(usize) + Clone + Send + 'static,
    ) -> Result<(Self, LinkRanks), StartError> {
        let link = ServerLink::create(&link_config(&config.worker, epoch))?;
        let mut group = Self { epoch, workers: Vec::new(), vitals: link.vitals, names: link.names, deaths: Vec::new() };
        for rank in 0..config.worker.world_size {
            let worker_config = worker_config(&config.worker, plan, &group, rank);
            let on_exit = on_exit.clone();
            group.workers.push(Worker::start(&worker_config, &config.log_dir, move || on_exit(rank))?);
        }
        Ok((group, LinkRanks::new(link.steps, link.reports)))
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

/// What the link of one start is made of.
fn link_config(worker: &WorkerConfig, epoch: u64) -> LinkConfig {
    LinkConfig {
        world_size: worker.world_size,
        epoch,
        // Half of a ring is the largest frame it carries.
        step_ring_bytes: 2 * step_bytes_max(worker),
        return_ring_bytes: 2 * report_bytes_max(worker),
        meeting_bytes: meeting_bytes(worker.world_size),
        // The ranks have all cores: while the server spun, a rank would wait for its own.
        spin: false,
    }
}

/// Bytes that a number takes at most in a frame (bincode's variable encoding of a u32).
const NUMBER_BYTES_MAX: usize = 5;

/// Bytes of a sequence or of a sampled token beside its long lists; generously, as it may hold some dozen stop tokens.
const RECORD_BYTES_MAX: usize = 1024;

/// The largest step. The engine introduces at most one sequence of full length, or shorter ones of as many tokens as a
/// step computes (`Limits::introduced_tokens_max`); with each block's worth of tokens travels its block.
fn step_bytes_max(worker: &WorkerConfig) -> usize {
    let tokens = worker.max_model_len.max(worker.batch_tokens_max).saturating_add(STOP_TOKENS_MAX);
    let blocks = tokens / worker.block_size.max(1) + worker.sequences_max;
    let numbers = tokens.saturating_add(blocks).saturating_mul(NUMBER_BYTES_MAX);
    numbers.saturating_add(worker.sequences_max.saturating_mul(RECORD_BYTES_MAX))
}

/// The largest report: every sequence with all the log-probabilities it may ask for, id and value each.
fn report_bytes_max(worker: &WorkerConfig) -> usize {
    let logprobs = (LOGPROBS_MAX as usize + 1) * (NUMBER_BYTES_MAX + size_of::<f32>());
    worker.sequences_max.saturating_mul(RECORD_BYTES_MAX + logprobs)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use workers::{
        KvDType,
        link::{
            report::{Logprobs, SampledToken, StepReport},
            sampling::{SEED_MAX, Sampling},
            step::{Chunk, NewSequence, SequenceId, Step},
        },
    };

    use super::*;

    fn config(max_model_len: usize, batch_tokens_max: usize, sequences_max: usize) -> WorkerConfig {
        WorkerConfig {
            rank: 0,
            world_size: 1,
            epoch: 0,
            link: String::new(),
            model: PathBuf::new(),
            max_model_len,
            batch_tokens_max,
            sequences_max,
            block_size: 1,
            kv_cache_bytes: 0,
            kv_blocks: None,
            kv_dtype: KvDType::F32,
            threads: 1,
            cores: Vec::new(),
            spin: false,
        }
    }

    /// The largest step and the largest report of a configuration, published through a link made for it.
    fn check(worker: WorkerConfig) {
        let mut link = ServerLink::create(&link_config(&worker, 0)).unwrap();
        let each = worker.max_model_len.max(worker.batch_tokens_max) / worker.sequences_max;
        let ids = || (0..worker.sequences_max as u64).map(|n| SequenceId(u64::MAX - n));
        let sampling = Sampling { seed: SEED_MAX, stop_token_ids: vec![u32::MAX; 64], ..Sampling::default() };
        let started = ids().map(|id| {
            let (tokens, sampling) = (vec![u32::MAX; each], sampling.clone());
            NewSequence { id, tokens, prompt_length: u32::MAX, sampling }
        });
        let batch = ids().map(|id| {
            let new_blocks = vec![u32::MAX; each + 1];
            Chunk { id, start: u32::MAX, count: u32::MAX, new_blocks, samples: true }
        });
        let step = Step { number: 1, finished: ids().collect(), started: started.collect(), batch: batch.collect() };
        link.steps.publish(&step, Duration::ZERO).unwrap();

        let top = vec![(u32::MAX, 0.5); LOGPROBS_MAX as usize];
        let tokens = ids().map(|id| SampledToken {
            id,
            token: u32::MAX,
            logprobs: Some(Logprobs { sampled: 0.5, top: top.clone() }),
        });
        let report = StepReport { step: u64::MAX, tokens: tokens.collect() };
        let mut frame = Vec::new();
        workers::link::codec::encode(&report, &mut frame);
        assert!(frame.len() <= report_bytes_max(&worker), "{} bytes", frame.len());
    }

    #[test]
    fn the_largest_frames_fit_their_rings() {
        check(config(1, 1, 1));
        check(config(4096, 512, 1));
        check(config(4096, 512, 64));
        check(config(16, 8192, 256));
    }
}

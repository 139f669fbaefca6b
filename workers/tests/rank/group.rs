//! Ranks as threads, asked step by step, with a real ring for the masks.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kernels::cpu::{Cpu, CpuConfig};
use kernels::group::{Group, GroupMemory, Membership, Waiting};
use workers::link::mask::{Allowed, TokenMask};
use workers::link::report::{Outcome, StepReport};
use workers::link::step::{Chunk, NewSequence, SequenceId, Step};
use workers::link::{LinkConfig, MaskWriter, Seat, ServerLink, WorkerLink};
use workers::masks::Masks;
use workers::rank::Rank;

use crate::script::BLOCK_SIZE;

/// A group of ranks, and what it was asked so far.
pub struct Ranks {
    masks: MaskWriter,
    steps: Vec<Sender<Step>>,
    reports: Vec<Receiver<StepReport>>,
    threads: Vec<JoinHandle<()>>,
    number: u64,
    next: Step,
    /// Sequences started.
    started: u32,
}

impl Ranks {
    pub fn start(model: &str, world_size: usize) -> Self {
        let link = LinkConfig {
            world_size,
            epoch: 0,
            step_ring_bytes: 4096,
            return_ring_bytes: 4096,
            mask_ring_bytes: 1 << 16,
            meeting_bytes: 1,
            spin: false,
        };
        let link = ServerLink::create(&link).expect("a link");
        let memory = GroupMemory::heap(world_size);
        let mut ranks = Self {
            steps: Vec::new(),
            reports: Vec::new(),
            threads: Vec::new(),
            number: 0,
            next: Step::default(),
            started: 0,
            masks: link.masks,
        };
        for rank in 0..world_size {
            let seat = Seat { link: &link.names.name(), rank, world_size, epoch: 0, spin: false };
            let masks = Masks::new(WorkerLink::attach(seat).expect("a seat").masks, 8);
            let ((to, steps), (tell, from)) = (channel(), channel());
            let (memory, model) = (memory.clone(), model.to_owned());
            let waiting = Waiting::Sleep;
            let membership = Membership { rank, world_size, waiting, join_timeout: Duration::from_secs(60) };
            ranks.threads.push(thread::spawn(move || serve(&model, memory, membership, masks, steps, &tell)));
            ranks.steps.push(to);
            ranks.reports.push(from);
        }
        ranks
    }

    /// Starts a sequence with the next step. It has blocks of its own for its tokens and 16 more.
    pub fn meet(&mut self, sequence: NewSequence) {
        self.next.started.push(sequence);
    }

    /// The ranks forget a sequence with the next step.
    pub fn forget(&mut self, id: u64) {
        self.next.finished.push(SequenceId(id));
    }

    /// Tells rank 0 what may come at this position.
    pub fn allow(&mut self, id: u64, position: usize, allowed: Allowed) {
        let mask = TokenMask { id: SequenceId(id), position: position as u32, allowed };
        self.masks.publish(&mask, Duration::ZERO).expect("room");
    }

    /// One step. All ranks must have learned the same tokens.
    pub fn step(&mut self, batch: Vec<Chunk>) -> StepReport {
        self.number += 1;
        let mut step = Step { number: self.number, batch, ..std::mem::take(&mut self.next) };
        for new in &step.started {
            let blocks = (new.tokens.len() + 16).div_ceil(BLOCK_SIZE) as u32;
            let chunk = step.batch.iter_mut().find(|chunk| chunk.id == new.id).expect("started, and computed");
            // All sequences of a test share one cache of 64 blocks; whoever comes late takes what others have left.
            chunk.new_blocks = (0..blocks).map(|block| (self.started + block) % 64).collect();
            self.started += blocks;
        }
        self.steps.iter().for_each(|to| to.send(step.clone()).expect("the rank lives"));
        let mut reports: Vec<StepReport> =
            self.reports.iter().map(|from| from.recv().expect("the rank lives")).collect();
        let first = reports.swap_remove(0);
        for other in &reports {
            let learned = |report: &StepReport| {
                report.tokens.iter().map(|t| (t.id, t.outcomes.iter().map(word).collect::<Vec<_>>())).collect()
            };
            let (ours, theirs): (Vec<_>, Vec<_>) = (learned(&first), learned(other));
            assert_eq!(ours, theirs, "ranks learned different tokens");
        }
        first
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.steps.clear();
        self.threads.drain(..).for_each(|thread| {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a rank panicked");
        });
    }
}

/// `start .. end` of a sequence.
pub fn chunk(id: u64, start: usize, end: usize, samples: bool) -> Chunk {
    let (start, count) = (start as u32, (end - start) as u32);
    Chunk { id: SequenceId(id), start, count, samples, ..Chunk::default() }
}

fn word(outcome: &Outcome) -> Result<u32, &'static str> {
    match *outcome {
        Outcome::Chosen { token, .. } => Ok(token),
        Outcome::Deferred => Err("deferred"),
        Outcome::NothingLeft => Err("nothing left"),
    }
}

fn serve(
    model: &str,
    memory: GroupMemory,
    membership: Membership,
    mut masks: Masks,
    steps: Receiver<Step>,
    tell: &Sender<StepReport>,
) {
    let Membership { rank, world_size, .. } = membership;
    let group = if world_size == 1 { Group::solo() } else { Group::join(memory, membership).expect("all join") };
    let device = Cpu::new(CpuConfig { threads: 1, ..CpuConfig::default() }, group);
    let config = crate::config(model, rank, world_size);
    let mut rank = Rank::load(device, &config, &mut |_| ()).expect("the model loads");
    for step in steps {
        let report = rank.compute(&step, &mut masks).expect("a good step");
        // Nobody listens any more where another rank has failed.
        let _ = tell.send(report);
    }
}

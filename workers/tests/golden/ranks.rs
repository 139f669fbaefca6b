//! Ranks as threads of one process, each with its shard of a model, stepping sequences as a worker does.

use std::time::Duration;

use kernels::{
    Batch, KvDType,
    all_gather::AllGather,
    cpu::{Cpu, CpuConfig, KvCache, Rounding},
    group::{Group, GroupMemory, Membership, Waiting},
    memory::Memory,
};
use workers::{
    layers::Shard,
    models::{self, LoadOptions, Model, WeightOptions},
    weights::Checkpoint,
};

use crate::{ROUNDED, TOLERANCE, reference::Tolerance};

/// Small, so that every prompt but the shortest crosses several blocks.
const BLOCK_SIZE: usize = 16;

/// One rank: a device, a shard, and a KV cache for `sequences` sequences.
pub struct Rank {
    device: Cpu,
    model: Box<dyn Model<Cpu>>,
    cache: KvCache,
    vocab_size: usize,
    blocks_left: Vec<u32>,
}

/// How many ranks there are, and how they take weights.
#[derive(Debug, Clone, Copy)]
pub struct Ranks {
    pub world_size: usize,
    pub weights: WeightOptions,
    /// … and keep keys and values.
    pub kv_dtype: KvDType,
    /// What activations are rounded to where they meet quantized weights.
    pub rounding: Rounding,
}

impl From<usize> for Ranks {
    fn from(world_size: usize) -> Self {
        Self { world_size, weights: WeightOptions::default(), kv_dtype: KvDType::F32, rounding: Rounding::Nothing }
    }
}

impl Ranks {
    /// How near they are to the reference.
    pub fn tolerance(&self) -> Tolerance {
        if self.rounding == Rounding::Nothing { TOLERANCE } else { ROUNDED }
    }
}

/// A growing list of tokens and where its keys and values are.
#[derive(Default, Clone)]
pub struct Sequence {
    tokens: Vec<u32>,
    computed: usize,
    blocks: Vec<u32>,
}

/// Which rows of a step are wanted.
#[derive(Clone, Copy, PartialEq)]
pub enum Wanted {
    EveryRow,
    LastRows,
}

/// Runs `scenario` on every rank at once, insists that all ranks found the same, and answers it.
pub fn on_ranks<T: Send + PartialEq>(
    checkpoint: &Checkpoint,
    ranks: impl Into<Ranks>,
    tokens_max: usize,
    scenario: impl Fn(&mut Rank) -> T + Sync,
) -> T {
    let ranks = ranks.into();
    let Ranks { world_size, weights, .. } = ranks;
    models::check(checkpoint, world_size, weights).unwrap();
    let memory = GroupMemory::heap(world_size);
    let run = |rank| {
        let mut rank = Rank::new(checkpoint, Shard { rank, world_size }, ranks, tokens_max, memory.clone());
        scenario(&mut rank)
    };
    let mut found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world_size).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<T>>()
    });
    let first = found.swap_remove(0);
    assert!(found.iter().all(|other| *other == first), "the ranks disagree");
    first
}

/// Computes all that remains of every sequence; nothing for those of which nothing does.
pub fn step_all(rank: &mut Rank, sequences: &mut [Sequence], wanted: Wanted) -> Vec<Vec<Vec<f32>>> {
    let remaining: Vec<usize> = sequences.iter().map(Sequence::remaining).collect();
    let mut chunks: Vec<_> =
        sequences.iter_mut().zip(&remaining).filter(|(_, left)| **left > 0).map(|(s, left)| (s, *left)).collect();
    let mut rows = rank.step(&mut chunks, wanted).into_iter();
    remaining.iter().map(|left| if *left > 0 { rows.next().unwrap() } else { Vec::new() }).collect()
}

impl Rank {
    fn new(checkpoint: &Checkpoint, shard: Shard, ranks: Ranks, tokens_max: usize, memory: GroupMemory) -> Self {
        let Shard { rank, world_size } = shard;
        let waiting = Waiting::Sleep;
        let membership = Membership { rank, world_size, waiting, join_timeout: Duration::from_secs(60) };
        let group = if world_size == 1 { Group::solo() } else { Group::join(memory, membership).unwrap() };
        let device = Cpu::new(CpuConfig { threads: 1, rounding: ranks.rounding, ..CpuConfig::default() }, group);
        let options = LoadOptions { max_model_len: tokens_max, threads: 1, weights: ranks.weights };
        let model = models::load(&device, checkpoint, shard, options, &mut |_| {}).unwrap();
        let blocks = tokens_max.div_ceil(BLOCK_SIZE) + 16;
        let shape = models::kv_shape(checkpoint.config(), shard, BLOCK_SIZE, blocks, ranks.kv_dtype);
        let cache = device.kv_cache(shape).unwrap();
        // Neighbours in a sequence are no neighbours in memory: even ids first, then odd ones.
        let blocks_left = (0..blocks as u32).rev().filter(|id| id % 2 == 1);
        let blocks_left = blocks_left.chain((0..blocks as u32).filter(|id| id % 2 == 0)).collect();
        Self { device, model, cache, vocab_size: checkpoint.config().vocab_size, blocks_left }
    }

    /// Computes the next `count` tokens of each sequence: the logits of the wanted rows, by sequence.
    pub fn step(&mut self, chunks: &mut [(&mut Sequence, usize)], wanted: Wanted) -> Vec<Vec<Vec<f32>>> {
        let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
        let mut selected = Vec::new();
        for (sequence, count) in chunks.iter_mut() {
            self.append(&mut batch, sequence, *count);
            let total = batch.tokens.len() as u32;
            selected.extend(total - wanted.rows(*count) as u32..total);
        }
        let batch = self.device.batch(batch).unwrap();
        let hidden = self.model.forward(&self.device, &batch, &mut self.cache).unwrap();
        let normed = self.model.normed(&self.device, hidden.select(&self.device, &selected).unwrap()).unwrap();
        let logits = self.device.all_gather(self.model.logits(&self.device, &normed).unwrap()).unwrap();
        let logits = self.device.to_host(&logits).unwrap();
        let rows: usize = chunks.iter().map(|(_, count)| wanted.rows(*count)).sum();
        let mut rows = logits.chunks_exact(logits.len() / rows).map(|row| row[..self.vocab_size].to_vec());
        chunks.iter().map(|(_, count)| rows.by_ref().take(wanted.rows(*count)).collect()).collect()
    }

    fn append(&mut self, batch: &mut Batch, sequence: &mut Sequence, count: usize) {
        let end = sequence.computed + count;
        while sequence.blocks.len() * BLOCK_SIZE < end {
            sequence.blocks.push(self.blocks_left.pop().expect("enough blocks"));
        }
        for position in sequence.computed..end {
            let block = sequence.blocks[position / BLOCK_SIZE] as usize;
            batch.tokens.push(sequence.tokens[position]);
            batch.positions.push(position as u32);
            batch.slot_mapping.push((block * BLOCK_SIZE + position % BLOCK_SIZE) as u32);
        }
        let total = batch.tokens.len() as u32;
        batch.query_starts.push(total);
        batch.context_lengths.push(end as u32);
        batch.block_tables.push(sequence.blocks.clone());
        sequence.computed = end;
    }
}

impl Sequence {
    /// A sequence of which nothing is computed.
    pub fn new(tokens: &[u32]) -> Self {
        Self { tokens: tokens.to_vec(), ..Self::default() }
    }

    /// Adds a token to be computed.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Tokens not yet computed.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

impl Wanted {
    fn rows(self, count: usize) -> usize {
        match self {
            Wanted::EveryRow => count,
            Wanted::LastRows => 1,
        }
    }
}

//! A list of steps as a server might publish them. They do not depend on what is sampled, so they can be written first.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;

use workers::link::sampling::Sampling;
use workers::link::step::{Chunk, NewSequence, SequenceId, Step};

/// Tokens in a block.
pub const BLOCK_SIZE: usize = 16;

/// Steps in the making.
#[derive(Default)]
pub struct Script {
    steps: Vec<Step>,
    next: Step,
    running: BTreeMap<u64, Running>,
    blocks_used: u32,
}

struct Running {
    length: usize,
    computed: usize,
    sampled: usize,
    blocks: Vec<u32>,
    /// Blocks that the ranks have not heard of.
    new_blocks: Vec<u32>,
}

impl Script {
    /// A new sequence.
    pub fn start(&mut self, id: u64, prompt: &[u32], sampling: Sampling) {
        self.start_again(id, prompt, prompt.len(), sampling);
    }

    /// A sequence that has generated something before.
    pub fn start_again(&mut self, id: u64, tokens: &[u32], prompt_length: usize, sampling: Sampling) {
        let (tokens, prompt_length, length) = (tokens.to_vec(), prompt_length as u32, tokens.len());
        self.next.started.push(NewSequence { id: SequenceId(id), tokens, prompt_length, sampling, pooling: None });
        let running = Running { length, computed: 0, sampled: 0, blocks: Vec::new(), new_blocks: Vec::new() };
        self.running.insert(id, running);
    }

    /// A new sequence whose first blocks are those of `other`.
    pub fn start_with_prefix_of(&mut self, id: u64, other: u64, blocks: usize, prompt: &[u32], sampling: Sampling) {
        self.start(id, prompt, sampling);
        let shared = self.running[&other].blocks[..blocks].to_vec();
        let running = self.running.get_mut(&id).expect("just started");
        running.computed = blocks * BLOCK_SIZE;
        running.blocks = shared.clone();
        running.new_blocks = shared;
    }

    /// The ranks forget a sequence with the next step.
    pub fn finish(&mut self, id: u64) {
        self.running.remove(&id);
        self.next.finished.push(SequenceId(id));
    }

    /// Steps with at most `chunk` tokens of each sequence, until each has sampled as many as `wanted`.
    pub fn run_all(&mut self, chunk: usize, wanted: &dyn Fn(u64) -> usize) {
        loop {
            let unfinished: Vec<u64> =
                self.running.iter().filter(|(id, running)| running.sampled < wanted(**id)).map(|(id, _)| *id).collect();
            if unfinished.is_empty() {
                return;
            }
            let batch = unfinished.into_iter().map(|id| self.chunk(id, chunk)).collect();
            let number = self.steps.len() as u64 + 1;
            self.steps.push(Step { number, batch, ..std::mem::take(&mut self.next) });
        }
    }

    fn chunk(&mut self, id: u64, most: usize) -> Chunk {
        let running = self.running.get_mut(&id).expect("running");
        let (start, end) = (running.computed, running.length.min(running.computed + most));
        while running.blocks.len() * BLOCK_SIZE < end {
            running.blocks.push(self.blocks_used);
            running.new_blocks.push(self.blocks_used);
            self.blocks_used += 1;
        }
        running.computed = end;
        let samples = end == running.length;
        if samples {
            running.length += 1;
            running.sampled += 1;
        }
        let new_blocks = std::mem::take(&mut running.new_blocks);
        Chunk {
            id: SequenceId(id),
            start: start as u32,
            count: (end - start) as u32,
            new_blocks,
            samples,
            ..Chunk::default()
        }
    }

    /// What was written.
    pub fn steps(self) -> Vec<Step> {
        self.steps
    }
}

//! Which tokens are computed next: first come, first served, in steps of bounded size. Pure and deterministic.
//!
//! A step serves, until its token budget is spent: running sequences in the order of their admission, then waiting ones.
//! One that is admitted takes what is left of the budget for its prompt, and the rest of the prompt in the next steps,
//! before another is admitted. So all running sequences but the last are decoding, and decode goes before prefill.
//!
//! Blocks are taken when they are needed. Where none is left, the sequence admitted last is preempted: it loses its blocks
//! and goes to the front of the waiting, to be recomputed.
//!
//! **Nobody starves.** `running` followed by `waiting` is at all times in the order of arrival: sequences are admitted from
//! the front, preempted ones return to it, last admitted first. So the oldest sequence of all gets tokens in every step,
//! and it is never preempted: alone it always finds room, since none grows beyond the cache. It ends after finitely many
//! steps, and then the next one is the oldest.

mod draft;
mod limits;
mod settle;

use std::collections::VecDeque;

use workers::link::step::{Chunk, SequenceId, Step};

use self::draft::Draft;
use super::{
    block_pool::{BlockId, BlockPool},
    request::{Event, Finish},
    sequence::{RequestKey, Sequence, as_u32},
};

pub use self::limits::{Counts, Limits, check_fits_cache};

/// All sequences, the blocks they hold, and the steps on their way.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    blocks: BlockPool,
    /// In order of arrival and, as ids are given at admission, of their ids.
    running: Vec<Sequence>,
    /// In order of arrival, all of them later than the running.
    waiting: VecDeque<Sequence>,
    /// Steps published and not reported, the oldest first.
    in_flight: VecDeque<Step>,
    /// Left the ranks since the last step.
    forgotten: Vec<SequenceId>,
    events: Vec<(RequestKey, Event)>,
    last_id: u64,
    last_step: u64,
    /// What was done since the start.
    pub counts: Counts,
}

impl Scheduler {
    /// A scheduler without blocks: it only lets wait until [`Scheduler::group_up`].
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            blocks: BlockPool::new(0, limits.block_size, limits.prefix_caching),
            running: Vec::with_capacity(limits.sequences_max),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            forgotten: Vec::new(),
            events: Vec::new(),
            last_id: 0,
            last_step: 0,
            counts: Counts::default(),
        }
    }

    /// The blocks and their holders.
    pub fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    /// How many sequences run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Steps scheduled and not settled.
    pub fn steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether there's nothing to compute and nothing to wait for.
    pub fn has_no_work(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Whether [`Scheduler::events`] would be empty.
    pub fn has_no_events(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes what happened to sequences since the last call, in order.
    pub fn events(&mut self) -> impl Iterator<Item = (RequestKey, Event)> {
        self.events.drain(..)
    }

    /// A group of ranks with so many empty blocks takes the place of the last one. Nothing runs at that moment.
    pub fn group_up(&mut self, kv_blocks: usize) {
        assert!(self.running.is_empty() && self.in_flight.is_empty(), "the group before this one was taken down");
        self.blocks = BlockPool::new(kv_blocks, self.limits.block_size, self.limits.prefix_caching);
        self.last_step = 0;
        for sequence in std::mem::take(&mut self.waiting) {
            self.submit(sequence);
        }
    }

    /// The ranks are gone, and what ran on them with them. Names the sequences lost; waiting ones stay.
    pub fn group_down(&mut self) -> Vec<RequestKey> {
        self.in_flight.clear();
        let lost = self.running.drain(..).map(|sequence| sequence.key).collect();
        self.forgotten.clear();
        self.blocks = BlockPool::new(0, self.limits.block_size, self.limits.prefix_caching);
        lost
    }

    /// Queues a sequence behind all others; one that can never fit the cache ends at once.
    pub fn submit(&mut self, mut sequence: Sequence) {
        let tokens_max = self.blocks.tokens_max();
        if tokens_max == 0 {
            self.waiting.push_back(sequence); // Of unknown size; looked at again when the ranks are up.
        } else if let Err(failure) = check_fits_cache(sequence.prompt_length, tokens_max) {
            self.events.push((sequence.key, Event::Failed(failure)));
        } else {
            sequence.fit_cache(tokens_max);
            if sequence.tokens.len() < sequence.length_max {
                self.waiting.push_back(sequence);
            } else {
                // It comes from a group with a larger cache.
                self.counts.finished += 1;
                self.events.push((sequence.key, Event::Finished(Finish::Length)));
            }
        }
    }

    /// Drops a sequence, wherever it is; one that has ended already is no error.
    pub fn cancel(&mut self, key: RequestKey) {
        if let Some(index) = self.running.iter().position(|sequence| sequence.key == key) {
            let sequence = self.running.remove(index);
            self.blocks.release(&sequence.blocks);
            self.forgotten.push(sequence.id);
        } else {
            self.waiting.retain(|sequence| sequence.key != key);
        }
        self.events.retain(|(other, _)| *other != key);
    }

    /// The next step, if there's anything to compute. It counts as on its way until [`Scheduler::settle`] sees its report;
    /// further steps may be scheduled meanwhile, and build on the tokens that it will sample.
    pub fn schedule(&mut self) -> Option<&Step> {
        let mut draft = Draft::new(&self.limits);
        self.continue_running(&mut draft);
        if !draft.preempted {
            self.admit_waiting(&mut draft);
        }
        if draft.step.batch.is_empty() {
            return None;
        }
        self.last_step += 1;
        draft.step.number = self.last_step;
        draft.step.finished = std::mem::take(&mut self.forgotten);
        self.counts.batch_tokens = (self.limits.batch_tokens_max - draft.budget) as u64;
        self.in_flight.push_back(draft.step);
        self.in_flight.back()
    }

    /// Adds a chunk of each running sequence that has tokens to compute, oldest first.
    fn continue_running(&mut self, draft: &mut Draft) {
        let mut index = 0;
        while index < self.running.len() && draft.budget > 0 {
            let count = self.running[index].uncomputed().min(draft.budget);
            if count > 0 && self.make_room(index, draft) {
                draft.add(self.take_chunk(index, count.min(self.room(index))));
            }
            index += 1;
        }
    }

    /// Preempts from the end until there is room for a token of this running sequence, or until it has itself gone.
    fn make_room(&mut self, index: usize, draft: &mut Draft) -> bool {
        while index < self.running.len() && self.room(index) == 0 {
            self.preempt_last(draft);
        }
        index < self.running.len()
    }

    /// Tokens that a running sequence could add with the blocks it has and those available. Never 0 for one that runs
    /// alone, as no sequence grows beyond the whole cache (`Sequence::fit_cache`).
    fn room(&self, index: usize) -> usize {
        let sequence = &self.running[index];
        (sequence.blocks.len() + self.blocks.available()) * self.blocks.block_size() - sequence.scheduled
    }

    /// The next `count` tokens of a sequence for which there is room, with the blocks they need.
    fn take_chunk(&mut self, index: usize, count: usize) -> Chunk {
        let sequence = &mut self.running[index];
        let (start, end) = (sequence.scheduled, sequence.scheduled + count);
        let missing = self.blocks.blocks_for(end).saturating_sub(sequence.blocks.len());
        let new_blocks: Vec<_> = (0..missing).map_while(|_| self.blocks.take()).collect();
        assert_eq!(new_blocks.len(), missing, "there was room");
        sequence.blocks.extend(&new_blocks);
        sequence.scheduled = end;
        let samples = end == sequence.expected_length();
        sequence.sampling_steps += usize::from(samples);
        Chunk { id: sequence.id, start: as_u32(start), count: as_u32(count), new_blocks, samples, ..Chunk::default() }
    }

    /// Takes the blocks of the sequence admitted last, which has no part in this step yet; it waits in front of all others.
    /// What it computed may still be found by prefix when it comes back.
    fn preempt_last(&mut self, draft: &mut Draft) {
        let Some(mut sequence) = self.running.pop() else { return };
        draft.preempted = true;
        self.blocks.release(&sequence.restart());
        self.forgotten.push(sequence.id);
        self.waiting.push_front(sequence);
        self.counts.preemptions += 1;
    }

    /// Admits waiting sequences in order, until one finds no place, no budget or no blocks.
    fn admit_waiting(&mut self, draft: &mut Draft) {
        while draft.budget > 0 && self.running.len() < self.limits.sequences_max && self.blocks.available() > 0 {
            let Some(mut sequence) = self.waiting.pop_front_if(|first| draft.may_introduce(first)) else { return };
            let cached = self.cached_prefix(&mut sequence);
            if !self.has_blocks_for(&sequence, &cached) {
                return self.waiting.push_front(sequence);
            }
            self.admit(sequence, cached, draft);
        }
    }

    /// The longest cached prefix that leaves at least the last token to compute.
    fn cached_prefix(&self, sequence: &mut Sequence) -> Vec<BlockId> {
        if !self.limits.prefix_caching {
            return Vec::new();
        }
        let full_blocks = (sequence.tokens.len() - 1) / self.blocks.block_size();
        self.blocks.longest_prefix(sequence.prefixes(full_blocks, self.blocks.block_size()))
    }

    /// Whether a sequence could be computed to its last token with the blocks available now. Nothing is reserved: older
    /// ones may take them as they grow, and then it gives way.
    fn has_blocks_for(&self, sequence: &Sequence, cached: &[BlockId]) -> bool {
        let missing = self.blocks.blocks_for(sequence.tokens.len()) - cached.len();
        missing + self.blocks.unheld(cached) <= self.blocks.available()
    }

    fn admit(&mut self, mut sequence: Sequence, cached: Vec<BlockId>, draft: &mut Draft) {
        self.last_id += 1;
        sequence.id = SequenceId(self.last_id);
        self.blocks.hold(&cached);
        sequence.start_behind(&cached, self.blocks.block_size());
        if !sequence.started {
            sequence.started = true;
            self.counts.prefix_queried_tokens += sequence.prompt_length as u64;
            self.counts.prefix_hit_tokens += sequence.computed as u64;
            self.events.push((sequence.key, Event::Started { cached_tokens: as_u32(sequence.computed) }));
        }
        draft.introduce(&sequence);
        let count = sequence.uncomputed().min(draft.budget);
        self.running.push(sequence);
        let mut chunk = self.take_chunk(self.running.len() - 1, count);
        chunk.new_blocks.splice(0..0, cached);
        draft.add(chunk);
    }

    /// Panics unless every block is accounted for and the order of arrival holds.
    #[cfg(test)]
    pub fn assert_consistent(&self) {
        self.blocks.assert_consistent(self.running.iter().map(|sequence| sequence.blocks.as_slice()));
        let queue = self.running.iter().chain(&self.waiting);
        assert!(queue.map(|sequence| sequence.key).is_sorted(), "the order of arrival");
        assert!(self.running.iter().map(|sequence| sequence.id).is_sorted());
        assert!(self.waiting.iter().all(|sequence| sequence.blocks.is_empty()));
        let decoding = &self.running[..self.running.len().saturating_sub(1)];
        assert!(decoding.iter().all(|sequence| sequence.uncomputed() <= 1), "only the last is in prefill");
        for sequence in &self.running {
            assert!(sequence.computed <= sequence.scheduled && sequence.scheduled <= sequence.expected_length());
            assert!(sequence.blocks.len() == self.blocks.blocks_for(sequence.scheduled));
        }
    }
}

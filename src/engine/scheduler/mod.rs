//! Which tokens are computed next: the most urgent first, in steps of bounded size. Pure and deterministic.
//!
//! Urgency is priority, and among equals the order of arrival. A step serves, until its token budget is spent: running
//! sequences, then waiting ones, each in the order of urgency. One that is admitted takes what is left of the budget for
//! its prompt, and the rest of the prompt in the next steps, before another is admitted. So at most one running sequence is
//! in prefill, and where all are of equal priority, it is the last: decode goes before prefill. While others decode, a step
//! takes fewer tokens of prompts, so that they need not wait long for their next.
//!
//! Blocks are taken when they are needed. Where none is left, the least urgent of the running is preempted: it loses its
//! blocks and waits in its place among the waiting, to be recomputed. Nobody is preempted for one that waits.
//!
//! A guided sequence whose mask did not come in time is held: it keeps its blocks and gets no tokens until it is released.
//!
//! A sequence whose client reads slower than its tokens come is paused: it gives its blocks up and waits for its client, not
//! for a place, until that has caught up. Then it takes its old place among the waiting, before any that came later, and
//! recomputes what the prefix cache doesn't know any more.
//!
//! When the group of ranks dies, the running sequences wait again, in their places, with the tokens they have: the next
//! group computes them anew, but for what is in a cache that outlived the last one, and each continues where it was. Unless
//! somebody killed the group from outside, those that a step on its way computed are suspects, until a settled step has
//! computed more of them than any had before. One suspect is computed at a time, so that the next death tells which of them
//! it was: **one that is computed at two deaths, and came no further between them, is poisonous**, and ends.
//!
//! **Nobody starves, unless by those who are more urgent.** Take a sequence W that waits while nobody more urgent does. As
//! long as it waits, nobody is admitted, so that the running become fewer: the most urgent of them gets tokens in every
//! step (or is held by its own guide only), is never preempted, because alone it always finds room, since none grows beyond
//! the cache, and so it ends after finitely many steps. At the latest once nobody runs, W is admitted. A sequence may be
//! preempted after that, but each time by one that is more urgent. Of equal priority those are only the finitely many that
//! came before it: among equals, the running are at all times older than the waiting, those excepted that were paused. These
//! come between as often as they were paused, and generate some hundreds of tokens each time: that, too, is finite.

mod drafts;
mod limits;
mod making;
mod settle;

use std::collections::{HashSet, VecDeque};

use workers::link::step::{Chunk, SequenceId, Step};

use self::making::{InFlight, Making, Part};
use super::{
    block_pool::{BlockId, BlockPool},
    request::{Event, Finish},
    sequence::{RequestKey, Sequence, Urgency, as_u32},
    speculation::Speculation,
};

pub use self::limits::{Counts, Limits, STEP_SIZES, check_fits_cache};

/// All sequences, the blocks they hold, and the steps on their way.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    blocks: BlockPool,
    /// In the order of urgency.
    running: Vec<Sequence>,
    /// In the order of urgency.
    waiting: VecDeque<Sequence>,
    /// Those that wait for their clients, without blocks.
    paused: Vec<Sequence>,
    /// Steps published and not reported, the oldest first.
    in_flight: VecDeque<InFlight>,
    /// Left the ranks since the last step.
    forgotten: Vec<SequenceId>,
    /// Held since the last call of `deferred`.
    deferred: Vec<RequestKey>,
    events: Vec<(RequestKey, Event)>,
    /// What drafts are worth, where there are any.
    speculation: Option<Speculation>,
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
            paused: Vec::new(),
            in_flight: VecDeque::new(),
            forgotten: Vec::new(),
            deferred: Vec::new(),
            events: Vec::new(),
            speculation: limits.speculation.map(Speculation::new),
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

    /// How many are paused.
    pub fn paused(&self) -> usize {
        self.paused.len()
    }

    /// Steps scheduled and not settled.
    pub fn steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The sequences that unsettled steps compute.
    pub fn in_flight(&self) -> impl Iterator<Item = &Sequence> {
        let keys = self.keys_in_flight();
        let all = self.running.iter().chain(&self.waiting).chain(&self.paused);
        all.filter(move |sequence| keys.contains(&sequence.key))
    }

    fn keys_in_flight(&self) -> HashSet<RequestKey> {
        self.in_flight.iter().flat_map(|published| &published.parts).map(|part| part.urgency.key).collect()
    }

    /// The sequences that were admitted once, and have not ended.
    pub fn started(&self) -> Vec<RequestKey> {
        let all = self.running.iter().chain(&self.waiting).chain(&self.paused);
        all.filter(|sequence| sequence.started).map(|sequence| sequence.key).collect()
    }

    /// Whether there's nothing to compute and nothing to wait for.
    #[cfg(test)]
    pub fn has_no_work(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.paused.is_empty() && self.in_flight.is_empty()
    }

    /// Whether [`Scheduler::events`] would be empty.
    pub fn has_no_events(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes what happened to sequences since the last call, in order.
    pub fn events(&mut self) -> impl Iterator<Item = (RequestKey, Event)> {
        self.events.drain(..)
    }

    fn empty_blocks(&self, total: usize) -> BlockPool {
        BlockPool::new(total, self.limits.block_size, self.limits.prefix_caching)
    }

    /// A group of ranks with so many blocks takes the place of the last one. They are empty, unless they outlived that one.
    /// Nothing runs at that moment.
    pub fn group_up(&mut self, kv_blocks: usize) {
        assert!(self.running.is_empty() && self.in_flight.is_empty(), "the group before this one was taken down");
        if self.blocks.total() != kv_blocks {
            self.blocks = self.empty_blocks(kv_blocks);
        }
        self.last_step = 0;
        for sequence in std::mem::take(&mut self.waiting) {
            self.submit(sequence);
        }
    }

    /// The ranks are gone, and what was computed with them. Whoever ran waits for the next group, except for those that
    /// turn out to be poisonous: they are the answer. Nobody is suspected of an end that isn't suspicious.
    pub fn group_down(&mut self, is_suspicious: bool) -> Vec<Sequence> {
        let computed = self.keys_in_flight();
        self.in_flight.clear();
        self.forgotten.clear();
        self.deferred.clear();
        // What a settled step had computed was complete on every rank. Whatever made ranks fail may have spoiled it, but not
        // who killed one.
        let cache_is_lost = is_suspicious || !self.limits.cache_outlives_ranks;
        let mut poisonous = Vec::new();
        let died_of =
            |sequence: &mut Sequence| is_suspicious && computed.contains(&sequence.key) && sequence.killed_group();
        poisonous.extend(self.paused.extract_if(.., died_of));
        // One that was preempted while a step still computed it waits already.
        let waited = std::mem::take(&mut self.waiting).into_iter().map(|sequence| (sequence, 0));
        let ran = std::mem::take(&mut self.running).into_iter().map(|sequence| (sequence, 1));
        for (mut sequence, replays) in waited.chain(ran) {
            self.blocks.release(&sequence.restart());
            if died_of(&mut sequence) {
                poisonous.push(sequence);
            } else {
                self.counts.replays += replays;
                self.wait(sequence);
            }
        }
        if cache_is_lost {
            self.blocks = self.empty_blocks(0);
        }
        self.counts.poisonous += poisonous.len() as u64;
        poisonous
    }

    /// Queues a sequence behind all that are as urgent; one that can never fit the cache ends at once.
    pub fn submit(&mut self, mut sequence: Sequence) {
        let tokens_max = self.blocks.tokens_max();
        if tokens_max == 0 {
            self.wait(sequence); // The cache's size is unknown; looked at again when the ranks are up.
        } else if let Err(failure) = check_fits_cache(sequence.prompt_length, tokens_max) {
            self.events.push((sequence.key, Event::Failed(failure)));
        } else {
            sequence.fit_cache(tokens_max);
            if sequence.tokens.len() < sequence.length_max {
                self.wait(sequence);
            } else {
                // It comes from a group with a larger cache.
                self.counts.finished += 1;
                self.events.push((sequence.key, Event::Finished(Finish::Length)));
            }
        }
    }

    fn wait(&mut self, sequence: Sequence) {
        let index = self.waiting.partition_point(|other| other.urgency() < sequence.urgency());
        self.waiting.insert(index, sequence);
    }

    /// Drops a sequence, wherever it is; one that has ended already is no error.
    pub fn cancel(&mut self, key: RequestKey) {
        if let Some(index) = self.running.iter().position(|sequence| sequence.key == key) {
            self.withdraw(index);
        } else {
            self.waiting.retain(|sequence| sequence.key != key);
            self.paused.retain(|sequence| sequence.key != key);
        }
        self.events.retain(|(other, _)| *other != key);
    }

    /// Takes a running sequence from the ranks, and its blocks from it.
    fn withdraw(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        self.blocks.release(&sequence.restart());
        self.forgotten.push(sequence.id);
        sequence
    }

    /// A sequence that has begun waits until [`Scheduler::resume`], without blocks; one that has ended is no error.
    pub fn pause(&mut self, key: RequestKey) {
        let is_it = |sequence: &Sequence| sequence.key == key && sequence.started;
        let sequence = if let Some(index) = self.running.iter().position(is_it) {
            self.withdraw(index)
        } else if let Some(index) = self.waiting.iter().position(is_it)
            && let Some(sequence) = self.waiting.remove(index)
        {
            sequence
        } else {
            return;
        };
        self.counts.pauses += 1;
        self.paused.push(sequence);
    }

    /// A paused sequence waits for its turn again; one that isn't paused is no error.
    pub fn resume(&mut self, key: RequestKey) {
        if let Some(index) = self.paused.iter().position(|sequence| sequence.key == key) {
            let sequence = self.paused.swap_remove(index);
            // The cache may be another group's meanwhile.
            self.submit(sequence);
        }
    }

    /// Makes the next step, if there's anything to compute: it is [`Scheduler::last_step`] then, and counts as on its way
    /// until [`Scheduler::settle`] sees its report. Further steps may be scheduled meanwhile, and build on the tokens that it
    /// will sample.
    pub fn schedule(&mut self) -> bool {
        let others_wait = self.running.iter().any(Sequence::is_decoding);
        let mut making = Making::new(&self.limits, others_wait);
        self.continue_running(&mut making);
        // Who has just given way would come back at once. Yet if nobody else has anything to compute, somebody shall.
        if !making.closed || making.step.batch.is_empty() {
            self.admit_waiting(&mut making);
        }
        if making.step.batch.is_empty() {
            return false;
        }
        self.speculate(&mut making);
        self.last_step += 1;
        making.step.number = self.last_step;
        making.step.finished = std::mem::take(&mut self.forgotten);
        self.counts.batch_tokens = (self.limits.batch_tokens_max - making.budget) as u64;
        self.in_flight.push_back(InFlight { step: making.step, parts: making.parts });
        true
    }

    /// Whether a step could be made while others are on their way that no running sequence would miss.
    pub fn may_run_ahead(&self) -> bool {
        !self.running.iter().any(Sequence::waits_for_token)
    }

    /// The step scheduled last, while it is on its way.
    pub fn last_step(&self) -> Option<&Step> {
        self.in_flight.back().map(|published| &published.step)
    }

    /// The sequences whose guides must say what may be chosen in the last step.
    pub fn choosing(&self) -> impl Iterator<Item = &Sequence> {
        let published = self.in_flight.back().into_iter();
        let chunks = published.flat_map(|InFlight { step, parts }| step.batch.iter().zip(parts));
        let choosing = chunks.filter(|(chunk, _)| chunk.samples).filter_map(|(_, part)| self.place(part.urgency));
        choosing.map(|index| &self.running[index]).filter(|sequence| sequence.guide.is_some())
    }

    /// Takes the sequences whose choice was put off, and which are held since.
    pub fn deferred(&mut self) -> Vec<RequestKey> {
        std::mem::take(&mut self.deferred)
    }

    /// A running sequence.
    pub fn find(&mut self, key: RequestKey) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.key == key)
    }

    /// A sequence's mask is there: it goes on. One that isn't held is no error.
    pub fn release(&mut self, key: RequestKey) {
        if let Some(sequence) = self.find(key) {
            sequence.held = false;
        }
    }

    /// Where a sequence is among the running.
    fn place(&self, urgency: Urgency) -> Option<usize> {
        self.running.binary_search_by_key(&urgency, Sequence::urgency).ok()
    }

    /// Adds a chunk of each running sequence that has tokens to compute, the most urgent first.
    fn continue_running(&mut self, making: &mut Making) {
        let mut index = 0;
        while index < self.running.len() && making.budget > 0 {
            let count = making.bears(&self.running[index]);
            making.closed |= count < self.running[index].uncomputed();
            if count > 0 && self.make_room(index, making) {
                let count = count.min(self.room(index));
                self.take_chunk(index, count, Vec::new(), making);
            }
            index += 1;
        }
    }

    /// Preempts from the end until there is room for a token of this running sequence, or until it has itself gone.
    fn make_room(&mut self, index: usize, making: &mut Making) -> bool {
        while index < self.running.len() && self.room(index) == 0 {
            self.preempt_last(making);
        }
        index < self.running.len()
    }

    /// Tokens that a running sequence could add with the blocks it has and those available. Never 0 for one that runs
    /// alone, as no sequence grows beyond the whole cache (`Sequence::fit_cache`).
    fn room(&self, index: usize) -> usize {
        let sequence = &self.running[index];
        (sequence.blocks.len() + self.blocks.available()) * self.blocks.block_size() - sequence.scheduled
    }

    /// Adds the next `count` tokens of a sequence for which there is room, with the blocks they need. The ranks get to know
    /// of the blocks in `cached` with it.
    fn take_chunk(&mut self, index: usize, count: usize, cached: Vec<BlockId>, making: &mut Making) {
        let sequence = &mut self.running[index];
        let reads_prompt = making::is_prompt(sequence);
        let (start, end) = (sequence.scheduled, sequence.scheduled + count);
        let mut new_blocks = cached;
        take_blocks(&mut self.blocks, sequence, end, &mut new_blocks);
        sequence.scheduled = end;
        let reaches_end = end == sequence.expected_length();
        let pools = reaches_end && sequence.pooling.is_some();
        let samples = reaches_end && !pools;
        sequence.sampling_steps += usize::from(samples);
        let unscored = sequence.unscored(start, end);
        let scored = as_u32(unscored.start)..as_u32(unscored.end);
        let scored = if scored.is_empty() { 0..0 } else { scored };
        let (id, draft) = (sequence.id, Vec::new());
        let chunk = Chunk { id, start: as_u32(start), count: as_u32(count), new_blocks, samples, draft, scored };
        making.add(chunk, Part { urgency: sequence.urgency(), pools }, reads_prompt);
    }

    /// Takes the blocks of the least urgent sequence, which has no part in this step yet; it waits. What it computed may
    /// still be found by prefix when it comes back.
    fn preempt_last(&mut self, making: &mut Making) {
        let Some(last) = self.running.len().checked_sub(1) else { return };
        making.closed = true;
        let sequence = self.withdraw(last);
        self.wait(sequence);
        self.counts.preemptions += 1;
    }

    /// Admits waiting sequences, the most urgent first, until one finds no place, no budget or no blocks.
    fn admit_waiting(&mut self, making: &mut Making) {
        while making.budget > 0 && self.running.len() < self.limits.sequences_max && self.blocks.available() > 0 {
            let running = &self.running;
            let may_enter = |first: &mut Sequence| making.may_introduce(first) && !meets_suspect(first, running);
            let Some(mut sequence) = self.waiting.pop_front_if(may_enter) else { return };
            let cached = self.cached_prefix(&mut sequence);
            sequence.start_behind(&cached, self.blocks.block_size());
            let count = making.bears(&sequence);
            if count == 0 || !self.has_blocks_for(&sequence, &cached) {
                sequence.restart();
                return self.waiting.push_front(sequence);
            }
            let cut = count < sequence.uncomputed();
            self.admit(sequence, cached, count, making);
            if cut {
                return;
            }
        }
    }

    /// The longest cached prefix that leaves at least the last token to compute, and all that are calculated for more than
    /// their keys and values.
    fn cached_prefix(&self, sequence: &mut Sequence) -> Vec<BlockId> {
        if !self.limits.prefix_caching {
            return Vec::new();
        }
        let full_blocks = sequence.skippable() / self.blocks.block_size();
        self.blocks.longest_prefix(sequence.prefixes(full_blocks, self.blocks.block_size()))
    }

    /// Whether a sequence could be computed to its last token with the blocks available now. Nothing is reserved: older
    /// ones may take them as they grow, and then it gives way.
    fn has_blocks_for(&self, sequence: &Sequence, cached: &[BlockId]) -> bool {
        let missing = self.blocks.blocks_for(sequence.tokens.len()) - cached.len();
        missing + self.blocks.unheld(cached) <= self.blocks.available()
    }

    fn admit(&mut self, mut sequence: Sequence, cached: Vec<BlockId>, count: usize, making: &mut Making) {
        self.last_id += 1;
        sequence.id = SequenceId(self.last_id);
        self.blocks.hold(&cached);
        if !sequence.started {
            sequence.started = true;
            self.count_prefix(&sequence);
            self.events.push((sequence.key, Event::Started { cached_tokens: as_u32(sequence.computed) }));
        }
        making.introduce(&sequence);
        let index = self.running.partition_point(|other| other.urgency() < sequence.urgency());
        self.running.insert(index, sequence);
        self.take_chunk(index, count, cached, making);
    }

    fn count_prefix(&mut self, sequence: &Sequence) {
        if self.limits.prefix_caching && sequence.skippable() > 0 {
            self.counts.prefix_queries += 1;
            self.counts.prefix_hits += u64::from(sequence.computed > 0);
            self.counts.prefix_queried_tokens += sequence.prompt_length as u64;
            self.counts.prefix_hit_tokens += sequence.computed as u64;
        }
    }

    /// Whether every running sequence is held by its guide.
    #[cfg(test)]
    pub fn all_are_held(&self) -> bool {
        self.running.iter().all(|sequence| sequence.held)
    }

    /// Panics unless every block is accounted for and the order of urgency holds; `was_paused` may come after younger ones.
    #[cfg(test)]
    pub fn assert_consistent(&self, was_paused: impl Fn(RequestKey) -> bool) {
        self.blocks.assert_consistent(self.running.iter().map(|sequence| sequence.blocks.as_slice()));
        assert!(self.running.iter().map(Sequence::urgency).is_sorted());
        assert!(self.waiting.iter().map(Sequence::urgency).is_sorted());
        for waiting in &self.waiting {
            let equals = self.running.iter().filter(|running| running.priority == waiting.priority);
            let is_younger = |running: &Sequence| running.key > waiting.key;
            assert!(was_paused(waiting.key) || !equals.into_iter().any(is_younger), "the order of arrival");
            assert!(waiting.blocks.is_empty() && waiting.computed == 0 && !waiting.held);
        }
        assert!(self.paused.iter().all(|paused| paused.blocks.is_empty() && paused.computed == 0));
        let in_prefill = self.running.iter().filter(|sequence| sequence.uncomputed() > 1);
        assert!(in_prefill.count() <= 1, "one after the other is in prefill");
        for sequence in &self.running {
            assert!(sequence.computed <= sequence.scheduled && sequence.scheduled <= sequence.expected_length());
            // The token that will be computed again has its place still, and so has a draft that was wrong.
            let put_off = usize::from(sequence.guide.is_some());
            let drafted = self.limits.speculation.map_or(0, |settings| settings.draft_max);
            let (least, most) = (sequence.scheduled + sequence.drafted, sequence.scheduled + put_off.max(drafted));
            let blocks = self.blocks.blocks_for(least)..=self.blocks.blocks_for(most);
            assert!(blocks.contains(&sequence.blocks.len()));
        }
    }
}

/// Takes as many blocks as a sequence lacks for its first `end` tokens; there is room for them.
fn take_blocks(blocks: &mut BlockPool, sequence: &mut Sequence, end: usize, new_blocks: &mut Vec<BlockId>) {
    for _ in sequence.blocks.len()..blocks.blocks_for(end) {
        let block = blocks.take().expect("there was room");
        sequence.blocks.push(block);
        new_blocks.push(block);
    }
}

/// Whether this is a suspect, and another one is being computed. One that is held is not.
fn meets_suspect(sequence: &Sequence, running: &[Sequence]) -> bool {
    sequence.is_suspect() && running.iter().any(|other| other.is_suspect() && !other.held)
}

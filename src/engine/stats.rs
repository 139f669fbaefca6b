//! What the engine counts, readable at any time by anybody without disturbing the loop.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

use super::scheduler::{STEP_SIZES, Scheduler};

/// The engine's counters at one moment. Totals count since the start of the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Whether ranks are up and nobody asked to drain.
    pub accepting: bool,
    /// Sequences admitted.
    pub running: u64,
    /// Sequences waiting to be admitted, preempted ones too.
    pub waiting: u64,
    /// Sequences that wait until their clients have read what there is.
    pub paused: u64,
    /// KV blocks that exist.
    pub blocks_total: u64,
    /// KV blocks held by running sequences.
    pub blocks_used: u64,
    /// KV blocks whose prefix can be found again, held or not.
    pub blocks_cached: u64,
    /// Steps reported.
    pub steps_total: u64,
    /// Sequences that lost their blocks to older ones.
    pub preemptions_total: u64,
    /// Sequences paused because their clients were too far behind.
    pub pauses_total: u64,
    /// Running sequences that a group's end sent back to wait for the next one.
    pub replays_total: u64,
    /// Sequences given up because groups died of them.
    pub poisonous_total: u64,
    /// Sequences looked up in the prefix cache.
    pub prefix_queries_total: u64,
    /// Those of them that were found there, in part.
    pub prefix_hits_total: u64,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queried_tokens_total: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens_total: u64,
    /// Prompt tokens calculated, again after a preemption or a replay too.
    pub prompt_tokens_total: u64,
    /// Tokens generated.
    pub generation_tokens_total: u64,
    /// Sequences that came to their end.
    pub finished_total: u64,
    /// Sequences that their clients gave up.
    pub aborted_total: u64,
    /// Sequences that failed.
    pub failed_total: u64,
    /// Choices of guided sequences put off because their mask had not come.
    pub deferrals_total: u64,
    /// Drafts that ranks decided on.
    pub drafts_total: u64,
    /// Tokens in them.
    pub draft_tokens_total: u64,
    /// Those of them that were right.
    pub accepted_tokens_total: u64,
    /// Tokens in the batch of the last step.
    pub batch_tokens: u64,
    /// Tokens in the batches of all steps.
    pub stepped_tokens_total: u64,
    /// How many steps had a batch of which size: up to the bound in [`STEP_SIZES`], and above the one before.
    pub step_sizes: [u64; STEP_SIZES.len() + 1],
    /// Whether a step was published and not reported yet.
    pub steps_outstanding: bool,
    /// Since a step was last published or reported: how long the ranks have been silent, while steps are outstanding.
    pub since_progress: Duration,
}

/// One writer, the loop; any number of readers. Every value stands alone, so relaxed order is enough, with one exception:
/// whoever sees a step outstanding must see the progress that its publication was, or would take an idle hour for a stall.
#[derive(Debug)]
pub struct Board {
    started: Instant,
    /// Sequences that were submitted and have not ended. Counted up by whoever submits.
    pub outstanding: AtomicUsize,
    /// Refuse whatever comes.
    pub draining: AtomicBool,
    /// Whether a group of ranks is up.
    pub ranks_up: AtomicBool,
    /// Tokens that fit the KV cache; 0: not known yet.
    pub cache_tokens_max: AtomicUsize,
    /// Sequences that failed.
    pub failed_total: AtomicU64,
    /// Sequences given up by their clients.
    pub aborted_total: AtomicU64,
    progress_us: AtomicU64,
    steps_outstanding: AtomicBool,
    running: AtomicU64,
    waiting: AtomicU64,
    paused: AtomicU64,
    blocks_total: AtomicU64,
    blocks_used: AtomicU64,
    blocks_cached: AtomicU64,
    steps_total: AtomicU64,
    preemptions_total: AtomicU64,
    pauses_total: AtomicU64,
    replays_total: AtomicU64,
    poisonous_total: AtomicU64,
    prefix_queries_total: AtomicU64,
    prefix_hits_total: AtomicU64,
    prefix_queried_tokens_total: AtomicU64,
    prefix_hit_tokens_total: AtomicU64,
    prompt_tokens_total: AtomicU64,
    generation_tokens_total: AtomicU64,
    finished_total: AtomicU64,
    deferrals_total: AtomicU64,
    drafts_total: AtomicU64,
    draft_tokens_total: AtomicU64,
    accepted_tokens_total: AtomicU64,
    batch_tokens: AtomicU64,
    stepped_tokens_total: AtomicU64,
    step_sizes: [AtomicU64; STEP_SIZES.len() + 1],
}

impl Default for Board {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            outstanding: Default::default(),
            draining: Default::default(),
            ranks_up: Default::default(),
            cache_tokens_max: Default::default(),
            failed_total: Default::default(),
            aborted_total: Default::default(),
            progress_us: Default::default(),
            steps_outstanding: Default::default(),
            running: Default::default(),
            waiting: Default::default(),
            paused: Default::default(),
            blocks_total: Default::default(),
            blocks_used: Default::default(),
            blocks_cached: Default::default(),
            steps_total: Default::default(),
            preemptions_total: Default::default(),
            pauses_total: Default::default(),
            replays_total: Default::default(),
            poisonous_total: Default::default(),
            prefix_queries_total: Default::default(),
            prefix_hits_total: Default::default(),
            prefix_queried_tokens_total: Default::default(),
            prefix_hit_tokens_total: Default::default(),
            prompt_tokens_total: Default::default(),
            generation_tokens_total: Default::default(),
            finished_total: Default::default(),
            deferrals_total: Default::default(),
            drafts_total: Default::default(),
            draft_tokens_total: Default::default(),
            accepted_tokens_total: Default::default(),
            batch_tokens: Default::default(),
            stepped_tokens_total: Default::default(),
            step_sizes: Default::default(),
        }
    }
}

impl Board {
    /// A step was published or reported just now.
    pub fn note_progress(&self) {
        self.progress_us.store(self.now_us(), Relaxed);
    }

    /// Takes over what the scheduler counted.
    pub fn update(&self, scheduler: &Scheduler) {
        let (counts, blocks) = (&scheduler.counts, scheduler.blocks());
        // SYNC: progress before the step it belongs to (meets `read`)
        self.steps_outstanding.store(scheduler.steps_in_flight() > 0, Release);
        self.running.store(scheduler.running() as u64, Relaxed);
        self.waiting.store(scheduler.waiting() as u64, Relaxed);
        self.paused.store(scheduler.paused() as u64, Relaxed);
        self.blocks_total.store(blocks.total() as u64, Relaxed);
        self.blocks_used.store(blocks.held() as u64, Relaxed);
        self.blocks_cached.store(blocks.cached() as u64, Relaxed);
        self.steps_total.store(counts.steps, Relaxed);
        self.preemptions_total.store(counts.preemptions, Relaxed);
        self.pauses_total.store(counts.pauses, Relaxed);
        self.replays_total.store(counts.replays, Relaxed);
        self.poisonous_total.store(counts.poisonous, Relaxed);
        self.prefix_queries_total.store(counts.prefix_queries, Relaxed);
        self.prefix_hits_total.store(counts.prefix_hits, Relaxed);
        self.prefix_queried_tokens_total.store(counts.prefix_queried_tokens, Relaxed);
        self.prefix_hit_tokens_total.store(counts.prefix_hit_tokens, Relaxed);
        self.prompt_tokens_total.store(counts.prompt_tokens, Relaxed);
        self.generation_tokens_total.store(counts.generation_tokens, Relaxed);
        self.finished_total.store(counts.finished, Relaxed);
        self.deferrals_total.store(counts.deferrals, Relaxed);
        self.drafts_total.store(counts.drafts, Relaxed);
        self.draft_tokens_total.store(counts.draft_tokens, Relaxed);
        self.accepted_tokens_total.store(counts.accepted_tokens, Relaxed);
        self.batch_tokens.store(counts.batch_tokens, Relaxed);
        self.stepped_tokens_total.store(counts.stepped_tokens, Relaxed);
        for (shown, count) in self.step_sizes.iter().zip(counts.step_sizes) {
            shown.store(count, Relaxed);
        }
    }

    /// All values, each as it is at some moment during the call.
    pub fn read(&self) -> EngineStats {
        // SYNC: progress before the step it belongs to (meets `update`)
        let steps_outstanding = self.steps_outstanding.load(Acquire);
        let since_us = self.now_us().saturating_sub(self.progress_us.load(Relaxed));
        EngineStats {
            accepting: self.ranks_up.load(Relaxed) && !self.draining.load(Relaxed),
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            paused: self.paused.load(Relaxed),
            blocks_total: self.blocks_total.load(Relaxed),
            blocks_used: self.blocks_used.load(Relaxed),
            blocks_cached: self.blocks_cached.load(Relaxed),
            steps_total: self.steps_total.load(Relaxed),
            preemptions_total: self.preemptions_total.load(Relaxed),
            pauses_total: self.pauses_total.load(Relaxed),
            replays_total: self.replays_total.load(Relaxed),
            poisonous_total: self.poisonous_total.load(Relaxed),
            prefix_queries_total: self.prefix_queries_total.load(Relaxed),
            prefix_hits_total: self.prefix_hits_total.load(Relaxed),
            prefix_queried_tokens_total: self.prefix_queried_tokens_total.load(Relaxed),
            prefix_hit_tokens_total: self.prefix_hit_tokens_total.load(Relaxed),
            prompt_tokens_total: self.prompt_tokens_total.load(Relaxed),
            generation_tokens_total: self.generation_tokens_total.load(Relaxed),
            finished_total: self.finished_total.load(Relaxed),
            aborted_total: self.aborted_total.load(Relaxed),
            failed_total: self.failed_total.load(Relaxed),
            deferrals_total: self.deferrals_total.load(Relaxed),
            drafts_total: self.drafts_total.load(Relaxed),
            draft_tokens_total: self.draft_tokens_total.load(Relaxed),
            accepted_tokens_total: self.accepted_tokens_total.load(Relaxed),
            batch_tokens: self.batch_tokens.load(Relaxed),
            stepped_tokens_total: self.stepped_tokens_total.load(Relaxed),
            step_sizes: self.step_sizes.each_ref().map(|count| count.load(Relaxed)),
            steps_outstanding,
            since_progress: Duration::from_micros(since_us),
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

//! The scheduler's bounds, and what it counts.

use workers::link::step::{EMBEDDINGS_MAX, SCORED_MAX};

use crate::engine::{EngineConfig, request::Failure, speculation};

/// The bounds of a step and of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in a block.
    pub block_size: usize,
    /// Most tokens in a step.
    pub batch_tokens_max: usize,
    /// Most tokens of prompts in a step, where sequences that are past theirs wait for their next token.
    pub prompt_tokens_beside: usize,
    /// Most sequences running.
    pub sequences_max: usize,
    /// Most tokens of new sequences that one step carries to the ranks, so that its frame has a bound too: cached prefixes
    /// take no budget, but travel.
    pub introduced_tokens_max: usize,
    /// Most positions that one step scores, at least one.
    pub scored_max: usize,
    /// Most sequences that one step pools, at least one.
    pub embeddings_max: usize,
    /// Whether cached prefixes are used.
    pub prefix_caching: bool,
    /// Whether they are in the cache of the next group still, where somebody killed the last one from outside.
    pub cache_outlives_ranks: bool,
    /// Whether tokens are drafted, and how.
    pub speculation: Option<speculation::Settings>,
}

impl Limits {
    /// Those of a configuration; a bound of zero, with which nothing would ever run, counts as one.
    pub fn of(config: &EngineConfig) -> Self {
        Self {
            block_size: config.block_size.max(1),
            batch_tokens_max: config.batch_tokens_max.max(1),
            prompt_tokens_beside: config.prompt_tokens_beside.max(1),
            sequences_max: config.sequences_max.max(1),
            introduced_tokens_max: config.model_len_max.max(config.batch_tokens_max),
            scored_max: SCORED_MAX,
            embeddings_max: EMBEDDINGS_MAX,
            prefix_caching: config.prefix_caching,
            cache_outlives_ranks: config.cache_outlives_ranks,
            speculation: config.speculation,
        }
    }
}

/// Upper bounds of the sizes by which steps are counted, tokens; one more count is for what is beyond the last.
pub const STEP_SIZES: [u64; 13] = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// What was done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps reported.
    pub steps: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Sequences paused because their clients were too far behind.
    pub pauses: u64,
    /// Running sequences that a group's end sent back to wait for the next one.
    pub replays: u64,
    /// Sequences that groups died of.
    pub poisonous: u64,
    /// Sequences looked up in the prefix cache, at first admission.
    pub prefix_queries: u64,
    /// Those of them that were found there, in part.
    pub prefix_hits: u64,
    /// Their prompts' tokens.
    pub prefix_queried_tokens: u64,
    /// Those of them that were found there.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens that steps calculated.
    pub prompt_tokens: u64,
    /// Tokens sampled and taken in.
    pub generation_tokens: u64,
    /// Sequences that came to their end.
    pub finished: u64,
    /// Choices put off because their mask had not come.
    pub deferrals: u64,
    /// Drafts that ranks decided on.
    pub drafts: u64,
    /// Tokens in them.
    pub draft_tokens: u64,
    /// Those of them that were right.
    pub accepted_tokens: u64,
    /// Tokens in the last step's batch.
    pub batch_tokens: u64,
    /// Tokens in the batches of all steps reported.
    pub stepped_tokens: u64,
    /// How many of those steps had a batch of which size: up to the bound in [`STEP_SIZES`], and above the one before.
    pub step_sizes: [u64; STEP_SIZES.len() + 1],
}

impl Counts {
    /// A step with a batch of so many tokens was reported.
    pub fn add_step(&mut self, tokens: u64) {
        self.steps += 1;
        self.stepped_tokens += tokens;
        self.step_sizes[STEP_SIZES.partition_point(|&bound| bound < tokens)] += 1;
    }
}

/// Why a prompt of so many tokens can never be served by a cache of `tokens_max`, if it can't.
pub fn check_fits_cache(prompt_length: usize, tokens_max: usize) -> Result<(), Failure> {
    if prompt_length < tokens_max {
        return Ok(());
    }
    let text =
        format!("the prompt has {prompt_length} tokens; with one more it does not fit the KV cache of {tokens_max}");
    Err(Failure::TooLarge(text))
}

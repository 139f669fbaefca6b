//! The frame of the step ring: what all ranks compute next.
//!
//! New sequences travel once and in full; known ones only by what changed. Token ids of a decode step do not travel at
//! all: every rank knows the token that was sampled last.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::sampling::Sampling;

/// Names one sequence for as long as it lives on the ranks. Never reused within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SequenceId(pub u64);

/// The most positions that one step scores: a report has a bound, however large a batch may be.
pub const SCORED_MAX: usize = 8192;

/// The most pooled sequences whose last token one step computes: likewise, however many sequences there may be.
pub const EMBEDDINGS_MAX: usize = 64;

/// The most tokens of a draft: a report has a bound.
pub const DRAFT_MAX: usize = 16;

/// One forward pass of one batch on all ranks. Ranks apply the fields in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counts up by one within an epoch, from 1.
    pub number: u64,
    /// Sequences to forget: finished, aborted or preempted since the last step.
    pub finished: Vec<SequenceId>,
    /// Sequences the ranks have not met (a preempted one comes back under a new id).
    pub started: Vec<NewSequence>,
    /// What to compute, in the order of the flat batch. May be empty: then ranks only forget and learn.
    pub batch: Vec<Chunk>,
}

/// A sequence as the ranks meet it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NewSequence {
    /// Its name from here on.
    pub id: SequenceId,
    /// All its tokens so far: the prompt, and what was sampled before it was preempted.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are the prompt; the rest count as generated (penalties, `min_tokens`).
    pub prompt_length: u32,
    /// How to choose its next tokens.
    pub sampling: Sampling,
    /// Present where nothing is to be generated, but the prompt's hidden states pooled. Its chunks never sample; the one
    /// that reaches its end is reported as an [`Embedding`](super::report::Embedding), at most [`EMBEDDINGS_MAX`] in a
    /// step.
    pub pooling: Option<Pooling>,
}

/// How a prompt's hidden states (after the last norm) become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// The mean over all its tokens.
    Mean,
    /// The last token's.
    Last,
}

/// The part of one sequence that a step computes: tokens `start .. start + count`, and a draft of those behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Which sequence.
    pub id: SequenceId,
    /// First token to compute; all before it are in the KV cache.
    pub start: u32,
    /// How many, at least one.
    pub count: u32,
    /// Blocks to append to its block table before computing (all of its cached prefix too, the first time).
    pub new_blocks: Vec<u32>,
    /// Whether the last token's logits are sampled: true once the chunk reaches the sequence's end. The ranks append
    /// the sampled token to the sequence.
    pub samples: bool,
    /// Tokens that may come next, for the ranks to find out: computed behind the chunk, and kept as far as each is what is
    /// sampled in its place. Empty unless the chunk samples, and for sequences that are guided, whose masks are of one
    /// place at a time.
    pub draft: Vec<u32>,
    /// Token positions, within the chunk, whose logits are compared with the prompt's next token: their log-probabilities
    /// are reported. Empty where nobody asked; never the prompt's last position, which has no next token in the prompt. At
    /// most [`SCORED_MAX`] in all chunks of a step.
    pub scored: Range<u32>,
}

impl Step {
    /// Rows of its batch.
    pub fn rows(&self) -> usize {
        self.batch.iter().map(Chunk::rows).sum()
    }
}

impl Chunk {
    /// Rows that it has in the batch.
    pub fn rows(&self) -> usize {
        self.count as usize + self.draft.len()
    }
}

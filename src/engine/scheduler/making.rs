//! A step while it is being put together, and what is kept of it until its report.

use workers::link::step::{Chunk, Step};

use super::Limits;
use crate::engine::sequence::{Sequence, Urgency};

/// A step in the making.
pub(super) struct Making {
    pub step: Step,
    pub parts: Vec<Part>,
    /// Tokens that may still be computed.
    pub budget: usize,
    /// Tokens of prompts that may be, of these.
    prompt_budget: usize,
    /// Tokens that may still be introduced to the ranks.
    introducible: usize,
    /// Positions that may still be scored.
    scorable: usize,
    /// Sequences that may still be pooled.
    poolable: usize,
    /// Whether nobody is admitted any more: a sequence had to give way, or one got less than it could have computed.
    pub closed: bool,
}

/// A step on its way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub step: Step,
    /// One for each chunk.
    pub parts: Vec<Part>,
}

/// What of a chunk does not travel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Whose it is; the sequence may be known under another id when the report comes.
    pub urgency: Urgency,
    /// Whether an embedding is to come of it.
    pub pools: bool,
}

impl Making {
    /// An empty one; `others_wait` says whether sequences past their prompts wait for their next token.
    pub fn new(limits: &Limits, others_wait: bool) -> Self {
        Self {
            step: Step::default(),
            parts: Vec::new(),
            budget: limits.batch_tokens_max,
            prompt_budget: if others_wait { limits.prompt_tokens_beside } else { usize::MAX },
            introducible: limits.introduced_tokens_max,
            scorable: limits.scored_max,
            poolable: limits.embeddings_max,
            closed: false,
        }
    }

    /// Whether the step may carry one more new sequence: the first always.
    pub fn may_introduce(&self, sequence: &Sequence) -> bool {
        self.step.started.is_empty() || sequence.introduction_tokens() <= self.introducible
    }

    pub fn introduce(&mut self, sequence: &Sequence) {
        self.introducible = self.introducible.saturating_sub(sequence.introduction_tokens());
        self.step.started.push(sequence.introduce());
    }

    /// How many of a sequence's next tokens the step still bears.
    pub fn bears(&self, sequence: &Sequence) -> usize {
        let uncomputed = sequence.uncomputed();
        let bearable = if is_prompt(sequence) { self.prompt_budget.min(self.budget) } else { self.budget };
        let count = uncomputed.min(bearable);
        let (start, end) = (sequence.scheduled, sequence.scheduled + count);
        let unscored = sequence.unscored(start, end);
        let end = if unscored.len() > self.scorable { unscored.start + self.scorable } else { end };
        let pools = sequence.pooling.is_some() && end == sequence.tokens.len();
        (end - start).saturating_sub(usize::from(pools && self.poolable == 0))
    }

    pub fn add(&mut self, chunk: Chunk, part: Part, reads_prompt: bool) {
        self.budget -= chunk.count as usize;
        if reads_prompt {
            self.prompt_budget = self.prompt_budget.saturating_sub(chunk.count as usize);
        }
        self.scorable -= chunk.scored.len();
        self.poolable -= usize::from(part.pools);
        self.step.batch.push(chunk);
        self.parts.push(part);
    }
}

/// Whether a sequence's next tokens are of a prompt that is read for the first time. One that comes back reads more than one
/// token, too, but it has a client who waits for its next as those do that decode.
pub(super) fn is_prompt(sequence: &Sequence) -> bool {
    sequence.uncomputed() > 1 && sequence.generated() == 0
}

//! A step while it is being put together.

use workers::link::step::{Chunk, Step};

use super::Limits;
use crate::engine::sequence::Sequence;

/// A step in the making.
pub(super) struct Draft {
    pub step: Step,
    /// Tokens that may still be computed.
    pub budget: usize,
    /// Tokens that may still be introduced to the ranks.
    introducible: usize,
    /// Whether a sequence had to give way.
    pub preempted: bool,
}

impl Draft {
    pub fn new(limits: &Limits) -> Self {
        let (budget, introducible) = (limits.batch_tokens_max, limits.introduced_tokens_max);
        Self { step: Step::default(), budget, introducible, preempted: false }
    }

    /// Whether the step may carry one more new sequence: the first always.
    pub fn may_introduce(&self, sequence: &Sequence) -> bool {
        self.step.started.is_empty() || sequence.introduction_tokens() <= self.introducible
    }

    pub fn introduce(&mut self, sequence: &Sequence) {
        self.introducible = self.introducible.saturating_sub(sequence.introduction_tokens());
        self.step.started.push(sequence.introduce());
    }

    pub fn add(&mut self, chunk: Chunk) {
        self.budget -= chunk.count as usize;
        self.step.batch.push(chunk);
    }
}

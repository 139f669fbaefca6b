//! The ranks, as the loop sees them: a place to publish steps and to collect their reports.

use std::{sync::Arc, time::Duration};

use workers::link::{mask::TokenMask, report::StepReport, step::Step};

/// All ranks of one group.
pub trait Ranks: Send {
    /// Hands a step to every rank.
    fn publish(&mut self, step: &Step) -> Result<(), RanksError>;

    /// The next report, in the order of the steps; none within `timeout`: `Ok(None)`.
    fn collect(&mut self, timeout: Duration) -> Result<Option<StepReport>, RanksError>;

    /// Where masks for guided sequences go.
    fn masks(&self) -> Arc<dyn Masks>;
}

/// Rank 0 of one group, as the threads that compute masks see it.
pub trait Masks: Send + Sync {
    /// Hands it a mask. May come before the step that needs it, or too late.
    fn publish(&self, mask: &TokenMask) -> Result<(), RanksError>;
}

/// The ranks can't be used any more: our own fault or theirs, never a client's. The group has to be started again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RanksError {
    /// No way through: the ring is broken, full for too long, or a frame does not fit it.
    #[error("the link to the ranks failed: {0}")]
    Link(String),
    /// A rank said what it could not have been asked.
    #[error("the ranks answered wrongly: {0}")]
    Protocol(String),
}

/// How a group of ranks came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEnd {
    /// In words.
    pub reason: String,
    /// Whether it may have died of what it computed. Not where somebody outside ended it: then nothing it computed is any
    /// worse for it.
    pub is_suspicious: bool,
}

impl<T: Into<String>> From<T> for GroupEnd {
    /// An end that may have come of what was computed.
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), is_suspicious: true }
    }
}

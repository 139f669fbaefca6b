//! The ranks as the engine uses them: steps go into one ring, reports come out of another.

use std::time::Duration;

use workers::link::{
    ends::{ReportReader, StepWriter},
    error::LinkError,
    report::StepReport,
    step::Step,
};

use crate::engine::{Ranks, RanksError};

/// How long a full ring may stay full. A rank that takes nothing for so long has stalled.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// The server's ends of one link.
pub struct LinkRanks {
    steps: StepWriter,
    reports: ReportReader,
}

impl LinkRanks {
    /// Takes the two ends that belong to the engine.
    pub fn new(steps: StepWriter, reports: ReportReader) -> Self {
        Self { steps, reports }
    }
}

impl Ranks for LinkRanks {
    fn publish(&mut self, step: &Step) -> Result<(), RanksError> {
        self.steps.publish(step, PUBLISH_TIMEOUT).map_err(broken)
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<StepReport>, RanksError> {
        self.reports.take(timeout).map_err(broken)
    }
}

fn broken(error: LinkError) -> RanksError {
    RanksError::Link(error.to_string())
}

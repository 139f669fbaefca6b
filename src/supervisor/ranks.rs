//! The ranks as the engine uses them: steps go into one ring, masks into another, reports come out of a third.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use workers::link::{
    ends::{MaskWriter, ReportReader, StepWriter},
    error::LinkError,
    mask::TokenMask,
    report::StepReport,
    step::Step,
};

use crate::engine::{Masks, Ranks, RanksError};

/// How long a full ring may stay full. A rank that takes nothing for so long has stalled.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a mask may wait for room; one that is lost is computed for nothing, but its choice is only put off.
const MASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The server's ends of one link.
pub struct LinkRanks {
    steps: StepWriter,
    reports: ReportReader,
    masks: Arc<LinkMasks>,
}

/// The mask ring has one writer, whichever thread uses it.
struct LinkMasks(Mutex<MaskWriter>);

impl LinkRanks {
    /// Takes the three ends that belong to the engine.
    pub fn new(steps: StepWriter, reports: ReportReader, masks: MaskWriter) -> Self {
        Self { steps, reports, masks: Arc::new(LinkMasks(Mutex::new(masks))) }
    }
}

impl Ranks for LinkRanks {
    fn publish(&mut self, step: &Step) -> Result<(), RanksError> {
        self.steps.publish(step, PUBLISH_TIMEOUT).map_err(broken)
    }

    fn collect(&mut self, timeout: Duration) -> Result<Option<StepReport>, RanksError> {
        self.reports.take(timeout).map_err(broken)
    }

    fn masks(&self) -> Arc<dyn Masks> {
        self.masks.clone()
    }
}

impl Masks for LinkMasks {
    fn publish(&self, mask: &TokenMask) -> Result<(), RanksError> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.publish(mask, MASK_TIMEOUT).map_err(broken)
    }
}

fn broken(error: LinkError) -> RanksError {
    RanksError::Link(error.to_string())
}

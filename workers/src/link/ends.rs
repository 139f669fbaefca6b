//! The typed ends of the rings: what goes in is a value, what comes out is a checked one.

use std::{marker::PhantomData, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    codec,
    error::LinkError,
    mask::TokenMask,
    report::StepReport,
    ring::{RingReader, RingWriter},
    step::Step,
};

/// The server's end of the step ring.
pub type StepWriter = FrameWriter<Step>;
/// A rank's end of the step ring.
pub type StepReader = FrameReader<Step>;
/// Rank 0's end of the return ring.
pub type ReportWriter = FrameWriter<StepReport>;
/// The server's end of the return ring.
pub type ReportReader = FrameReader<StepReport>;
/// The server's end of the mask ring.
pub type MaskWriter = FrameWriter<TokenMask>;
/// Rank 0's end of the mask ring.
pub type MaskReader = FrameReader<TokenMask>;

/// Publishes values of one type.
pub struct FrameWriter<T> {
    ring: RingWriter,
    frame: Vec<u8>,
    _frames: PhantomData<fn(T)>,
}

/// Takes values of one type, each once, in order.
pub struct FrameReader<T> {
    ring: RingReader,
    name: String,
    _frames: PhantomData<fn() -> T>,
}

impl<T: Serialize> FrameWriter<T> {
    pub(super) fn new(ring: RingWriter) -> Self {
        Self { ring, frame: Vec::new(), _frames: PhantomData }
    }

    /// Publishes `value`. If the ring is full it waits up to `timeout` for room and then answers
    /// [`LinkError::Full`], which names the slowest reader; nothing was published then.
    pub fn publish(&mut self, value: &T, timeout: Duration) -> Result<(), LinkError> {
        codec::encode(value, &mut self.frame);
        self.ring.publish(&self.frame, timeout)
    }
}

impl<T: DeserializeOwned> FrameReader<T> {
    pub(super) fn new(ring: RingReader, name: String) -> Self {
        Self { ring, name, _frames: PhantomData }
    }

    /// Takes the next value; none if none came within `timeout` (zero: only looks). After an error the ring is of no
    /// more use.
    pub fn take(&mut self, timeout: Duration) -> Result<Option<T>, LinkError> {
        self.ring.take(timeout)?.map(|frame| codec::decode(frame, &self.name)).transpose()
    }
}

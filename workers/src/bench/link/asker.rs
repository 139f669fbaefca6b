//! The side that asks and measures.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    EchoConfig, ROOM_BYTES, Spread, ring, stay_on, waiting,
    word::{self, Word, now},
};
use crate::link::{
    LinkError, Segment,
    name::{LinkName, Role},
    ring::{RingMemory, RingReader, RingWriter},
};

/// How long an echo may take to answer: to start, for the first frame.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many are measured at least, and at most.
const COUNT_MIN: usize = 20;
const COUNT_MAX: usize = 100_000;

/// Why nothing was measured.
#[derive(Debug, Error)]
pub enum AskerError {
    /// The link's own.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The system refused its process.
    #[error("the link's echo can't be started: {0}")]
    Start(io::Error),
    /// It never came, or died.
    #[error("the link's echo does not answer")]
    Silent,
}

/// An asker with its rings. Its names in `/dev/shm` go once the echo has answered, or with it.
pub struct Asker {
    asks: RingWriter,
    answers: RingReader,
    name: LinkName,
    segments: Vec<Arc<Segment>>,
}

impl Asker {
    /// Makes the rings, and keeps the calling thread to `core`. `spin`: whether both sides look around before they
    /// sleep.
    pub fn new(spin: bool, core: Option<usize>) -> Result<Self, AskerError> {
        stay_on(core);
        let name = LinkName::random();
        let make = |role| {
            let (segment, shape) = ring(name, role);
            RingMemory::create(&segment, shape, ROOM_BYTES)
        };
        let ((asks, asked_segment), (answers, answered_segment)) = (make(Role::Steps)?, make(Role::Reports)?);
        Ok(Self {
            asks: RingWriter::new(asks, waiting(spin))?,
            answers: RingReader::new(answers, 0, waiting(spin))?,
            name,
            segments: vec![asked_segment, answered_segment],
        })
    }

    /// What its echo is to be told.
    pub fn echo(&self, spin: bool, core: Option<usize>) -> EchoConfig {
        EchoConfig { link: self.name.to_string(), spin, core }
    }

    /// Waits until the echo has attached, and takes the names away.
    pub fn meet(&mut self) -> Result<(), AskerError> {
        self.round_trip(&mut [0; word::BYTES])?;
        self.segments.drain(..).for_each(|segment| segment.unlink());
        Ok(())
    }

    /// Frames of `bytes` (a word's 16 at least, half a mebibyte at most) there and back, one after the other, for `time`.
    pub fn round_trips(&mut self, bytes: usize, time: Duration) -> Result<Spread, AskerError> {
        let mut frame = vec![0; bytes];
        for _ in 0..COUNT_MIN {
            self.round_trip(&mut frame)?;
        }
        repeat(time, || self.round_trip(&mut frame))
    }

    fn round_trip(&mut self, frame: &mut [u8]) -> Result<Duration, AskerError> {
        Word::Return.write(frame);
        let started = Instant::now();
        self.asks.publish(frame, PATIENCE)?;
        let answer = self.answers.take(PATIENCE)?.ok_or(AskerError::Silent)?;
        let took = started.elapsed();
        if answer.len() == frame.len() { Ok(took) } else { Err(AskerError::Silent) }
    }

    /// From the moment before publishing to that at which the echo has the frame, after both sides were idle for so
    /// long: for `time`.
    pub fn wake_ups(&mut self, idle: Duration, time: Duration) -> Result<Spread, AskerError> {
        repeat(time, || {
            thread::sleep(idle);
            let mut frame = [0; 64];
            Word::Stamp(now()).write(&mut frame);
            self.asks.publish(&frame, PATIENCE)?;
            let answer = self.answers.take(PATIENCE)?.and_then(|answer| answer.first_chunk().copied());
            Ok(Duration::from_nanos(u64::from_le_bytes(answer.ok_or(AskerError::Silent)?)))
        })
    }

    /// Frames of `bytes` (as above) per second, one way, as many as there is room for on their way, for `time`.
    pub fn one_way(&mut self, bytes: usize, time: Duration) -> Result<f64, AskerError> {
        let mut frame = vec![0; bytes];
        Word::Pass.write(&mut frame);
        let (begun, mut count) = (Instant::now(), 0u64);
        while count < COUNT_MIN as u64 || begun.elapsed() < time {
            for _ in 0..16 {
                self.asks.publish(&frame, PATIENCE)?;
                count += 1;
            }
        }
        // All were taken once this one comes back.
        self.round_trip(&mut frame)?;
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }
}

fn repeat(time: Duration, mut once: impl FnMut() -> Result<Duration, AskerError>) -> Result<Spread, AskerError> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < COUNT_MIN || (times.len() < COUNT_MAX && begun.elapsed() < time) {
        times.push(once()?);
    }
    Ok(Spread::of(times))
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.segments.iter().for_each(|segment| segment.unlink());
    }
}

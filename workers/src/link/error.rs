//! What can go wrong between server and workers, and whose fault it is.

use std::{io, time::Duration};

use thiserror::Error;

/// A failed operation of the link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The operator's: the machine has too little shared memory left.
    #[error(
        "no room for {bytes} bytes of shared memory (segment {segment}): /dev/shm is full or too small; \
         free some of it, or enlarge it (in Docker: --shm-size)"
    )]
    NoRoom {
        /// The segment that was to be created.
        segment: String,
        /// Its size.
        bytes: usize,
    },
    /// The operating system's refusal (permissions, limits, a name that is gone).
    #[error("cannot {action} the shared-memory segment {segment}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Which segment.
        segment: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The caller's: a configuration that cannot be meant.
    #[error("invalid link configuration: {0}")]
    Config(String),
    /// Whoever started this process: the segment is another server's, another start's or another version's.
    #[error("{segment} is not the one this process was started for: its {what} is {found}, expected {expected}")]
    Mismatch {
        /// Which segment.
        segment: String,
        /// The field that differs.
        what: &'static str,
        /// What this process was told.
        expected: u64,
        /// What the segment says.
        found: u64,
    },
    /// Whoever started this process: the end it wants has an owner.
    #[error("{end} of {segment} has attached already")]
    Taken {
        /// Which segment.
        segment: String,
        /// Which end of it.
        end: String,
    },
    /// A peer's: what it left in shared memory cannot be true.
    #[error("{segment} is corrupt: {found}; one of the processes that share it misbehaves")]
    Corrupt {
        /// Which segment.
        segment: String,
        /// What was found.
        found: String,
    },
    /// A reader's: it is too slow, hangs or is dead.
    #[error("{segment} is full: {reader} left {behind_bytes} bytes untaken, waited {waited:?} for it")]
    Full {
        /// Which ring.
        segment: String,
        /// Its slowest reader, for people.
        reader: String,
        /// The slowest reader's index: on the step ring, its rank.
        reader_index: usize,
        /// How far behind it is.
        behind_bytes: u64,
        /// How long the writer waited.
        waited: Duration,
    },
    /// The caller's: a frame that the ring can never carry.
    #[error("a frame of {bytes} bytes is too large for {segment}, which carries frames up to {limit} bytes")]
    TooLarge {
        /// Which ring.
        segment: String,
        /// Size of the frame.
        bytes: usize,
        /// Size of the largest frame.
        limit: usize,
    },
}

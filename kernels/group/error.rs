//! Why a rank cannot join a group.

use std::time::Duration;

use thiserror::Error;

use crate::DeviceError;

/// Why a rank could not join.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinError {
    /// The server made the segment too small.
    #[error("the group's shared memory has {bytes} bytes, {world_size} ranks need {needed}")]
    TooSmall {
        /// Bytes there.
        bytes: usize,
        /// Bytes needed.
        needed: usize,
        /// Ranks that are to meet.
        world_size: usize,
    },
    /// The segment does not begin at an address that the seats need.
    #[error("the group's shared memory is not aligned to {0} bytes")]
    Misaligned(usize),
    /// The rank cannot be one of the group's.
    #[error("rank {rank} in a group of {world_size}")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// The group's size.
        world_size: usize,
    },
    /// Another rank of this group was told another size, or is another version of this program.
    #[error("the group's shared memory was laid out for another number of ranks or by another version")]
    OtherLayout,
    /// Two processes claim one rank.
    #[error("rank {0} has joined already")]
    Taken(usize),
    /// A rank did not appear in time.
    #[error("rank {rank} did not join within {} s", .timeout.as_secs_f32())]
    Missing {
        /// The first rank that is not there.
        rank: usize,
        /// How long it was awaited.
        timeout: Duration,
    },
    /// A rank appeared and died.
    #[error(transparent)]
    Lost(#[from] DeviceError),
}

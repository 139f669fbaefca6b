//! What can go wrong on a device, and whose fault it is.

use thiserror::Error;

/// A failed operation. The worker that meets one cannot go on: its supervisor restarts the group.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DeviceError {
    /// The device has no room for what was asked.
    #[error("out of memory on {device}: {bytes} bytes asked for {purpose}")]
    OutOfMemory {
        /// The device's name, for instance `cpu`.
        device: String,
        /// Size of the refused allocation.
        bytes: usize,
        /// What the memory was for.
        purpose: String,
    },
    /// Another rank left a collective unfinished (it died, or its group is being torn down).
    #[error("rank {rank} left the group during {collective}")]
    PeerLost {
        /// The rank that did not arrive.
        rank: usize,
        /// The collective that was waiting for it.
        collective: &'static str,
    },
    /// There is no device of the wanted kind that can be used.
    #[error("no usable GPU: {0}")]
    Unavailable(String),
    /// The device, or a library that speaks for it, answered with an error.
    #[error("{doing} failed: {fault}")]
    Failed {
        /// What was asked of it.
        doing: String,
        /// What it said.
        fault: String,
    },
    /// The device cannot do this: a dtype, a shape or a size it has no kernel for.
    #[error("not supported on this device: {0}")]
    Unsupported(String),
}

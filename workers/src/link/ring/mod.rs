//! A bounded queue in shared memory: one writer, N readers, every reader takes every frame.
//!
//! ```text
//!                slowest reader                          published
//!                      ▼                                     ▼
//!      ┌───────────────┬──────────────┬───────┬──────────────┬───────────────┐
//! room │  free again   │ frame 7      │ 8     │ frame 9      │  free         │  capacity: a power of two
//!      └───────────────┴──────────────┴───────┴──────────────┴───────────────┘
//!                      ▲              ▲                      ▲
//!                   rank 1         rank 0                 rank 2 (has nothing to take: sleeps)
//!
//! frame: │ length (u32), guard (u32) │ payload, filled up to 8 bytes │
//! ```
//!
//! Positions are bytes since the ring began and only ever rise; `position % capacity` is the place, so there is no ABA
//! and a full ring differs from an empty one. A frame that meets the end of the room goes on at its beginning. Each
//! reader owns its cursor, on a cache line of its own; the writer keeps the slowest one it has seen and looks again only
//! when that leaves too little room.
//!
//! **Payload words are relaxed atomics**, so that a peer gone mad and writing under our feet gives garbage, not undefined
//! behaviour. What a reader takes is copied out first and judged afterwards: length within the published range, guard
//! made of epoch and position, then the codec's own checks.
//!
//! **Waiting** ([`bell`]) never loses a wake-up and costs nothing while idle; spinning is for those who know of a spare core.
//!
//! **Happens-before edges**, each marked `SYNC` at both its ends: *ring is complete* (creator → attaching process),
//! *frame visible to readers* (writer → reader), *room is free again* (reader → writer), *bell rung* (ringer → sleeper).
//!
//! The ring is generic over its atomics ([`atomics::Atomics`]), so that loom checks the very code that ships; no other
//! build is needed for it: `cargo test -p shardwire-workers --lib link::ring::model`.

pub mod atomics;
pub mod bell;
mod frame;
pub mod layout;
pub mod reader;
pub mod writer;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use layout::{RingMemory, RingShape};
pub use reader::RingReader;
pub use writer::RingWriter;

use std::time::Duration;

/// How to wait for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Sleep at once.
    Sleep,
    /// Look around for [`SPIN`] first. Only where every thread of the group provably has a core of its own: on a shared
    /// core, spinning keeps away the very process that is waited for.
    SpinThenSleep,
}

/// How long a spinning waiter looks around before it sleeps.
pub const SPIN: Duration = Duration::from_micros(50);

impl Waiting {
    /// Spins if `spare_core`.
    pub fn new(spare_core: bool) -> Self {
        if spare_core { Self::SpinThenSleep } else { Self::Sleep }
    }
}

//! The meeting place of CPU ranks: a segment of shared memory in which collectives happen.
//!
//! A collective is a few *phases*. In each, every rank writes its slot, says so, waits until all have said so, and reads
//! the others' slots:
//!
//! ```text
//!            seat 0: arrived = 7     seat 1: arrived = 7     seat 2: arrived = 6   ← the others wait for this one
//! even half  slot 0 (phase 6)        slot 1 (phase 6)        slot 2 (phase 6)      ← perhaps still being read
//! odd half   slot 0 (phase 7)        slot 1 (phase 7)        slot 2 (being written)
//! ```
//!
//! Two halves are enough, and no barrier follows a collective: whoever writes phase 8 has seen all seats at 7, and a rank
//! takes seat 7 only after it has read phase 6, whose half phase 8 writes again.

mod error;
mod memory;
mod peer;
mod threads;
mod turn;
mod wait;

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, PoisonError, atomic::fence};
use std::time::{Duration, Instant};

pub use error::JoinError;
pub use memory::GroupMemory;
pub(crate) use threads::run_ranks;
pub(crate) use turn::{Collective, Slots, Turn};

use crate::{DeviceError, Result};
use turn::Word;
use wait::RingBell;

/// One rank's membership in its group. Dropping it is leaving: a rank that waits for this one is told so.
pub struct Group {
    rank: usize,
    world_size: usize,
    meeting: Option<Meeting>,
}

/// What a rank that is not alone holds.
struct Meeting {
    memory: GroupMemory,
    waiting: Waiting,
    progress: Mutex<Progress>,
}

/// How far this rank has come.
struct Progress {
    phase: u64,
    lost: Option<DeviceError>,
    /// In collectives, for others, all together.
    waited: Duration,
}

/// Who joins, and how it waits.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// This rank, `0..world_size`.
    pub rank: usize,
    /// How many ranks meet.
    pub world_size: usize,
    /// How this rank waits for the others.
    pub waiting: Waiting,
    /// How long the others may take to appear.
    pub join_timeout: Duration,
}

/// How a rank waits. Ranks of one group may differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Look again and again for up to a millisecond, then sleep: for ranks whose threads have cores of their own.
    Spin,
    /// Sleep at once: where ranks share cores, looking again takes the time that the awaited rank needs.
    Sleep,
}

impl Group {
    /// A rank that is alone: its collectives do nothing.
    pub fn solo() -> Self {
        Self { rank: 0, world_size: 1, meeting: None }
    }

    /// Bytes of shared memory in which `world_size` ranks meet.
    pub fn bytes(world_size: usize) -> usize {
        memory::bytes(world_size)
    }

    /// Takes this rank's seat and waits until every other rank has taken its own.
    pub fn join(mut memory: GroupMemory, membership: Membership) -> std::result::Result<Self, JoinError> {
        let Membership { rank, world_size, waiting, join_timeout } = membership;
        if rank >= world_size {
            return Err(JoinError::NoSuchRank { rank, world_size });
        }
        memory.check(world_size)?;
        memory.claim_layout(world_size)?;
        peer::take_seat(memory.seat(rank)).map_err(|()| JoinError::Taken(rank))?;
        let progress = Mutex::new(Progress { phase: 0, lost: None, waited: Duration::ZERO });
        let group = Self { rank, world_size, meeting: Some(Meeting { memory, waiting, progress }) };
        group.await_members(join_timeout)?;
        Ok(group)
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks meet.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// How long this rank has waited for others in collectives, all together. The rank that waits least is the one that
    /// the others wait for.
    pub fn waited(&self) -> Duration {
        let progress =
            self.meeting.as_ref().map(|meeting| meeting.progress.lock().unwrap_or_else(PoisonError::into_inner));
        progress.map_or(Duration::ZERO, |progress| progress.waited)
    }

    /// Returns once every rank has called it.
    pub fn barrier(&self) -> Result<()> {
        match self.turn::<u32>(Collective::Barrier)? {
            Some(mut turn) => turn.meet(0).map(drop),
            None => Ok(()),
        }
    }

    /// What each rank gives, by rank: as many words from all.
    pub(crate) fn exchange(&self, words: &[u32]) -> Result<Vec<Vec<u32>>> {
        let Some(mut turn) = self.turn::<u32>(Collective::AllGather)? else { return Ok(vec![words.to_vec()]) };
        turn.slot(words.len()).copy_from_slice(words);
        let slots = turn.meet(words.len())?;
        Ok((0..self.world_size).map(|rank| slots.of(rank).to_vec()).collect())
    }

    /// Begins a collective on elements of type `T`; none where the rank is alone.
    pub(crate) fn turn<T: Word>(&self, collective: Collective) -> Result<Option<Turn<'_, T>>> {
        let Some(meeting) = &self.meeting else { return Ok(None) };
        let progress = meeting.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match &progress.lost {
            Some(lost) => Err(lost.clone()),
            None => Ok(Some(Turn::new(self, meeting, progress, collective))),
        }
    }

    /// The error to give up with, if another rank has left.
    pub(crate) fn gone(&self) -> Option<DeviceError> {
        /// Later than any rank will ever arrive.
        const NEVER: u64 = u64::MAX;
        self.lost(Collective::AllReduce, NEVER)
    }

    fn await_members(&self, timeout: Duration) -> std::result::Result<(), JoinError> {
        let Some(Meeting { memory, .. }) = &self.meeting else { return Ok(()) };
        let absent = || (0..self.world_size).find(|&rank| !peer::is_seated(memory.seat(rank)));
        let deadline = Instant::now() + timeout;
        fence(SeqCst); // before the look at the sleepers, see `wait`
        memory.ring_bell(RingBell::IfSomeoneSleeps);
        wait::until(
            memory,
            Waiting::Sleep,
            || absent().is_none(),
            || match (self.lost(Collective::Join, 0), absent()) {
                (Some(lost), _) => Err(JoinError::Lost(lost)),
                (None, Some(rank)) if Instant::now() >= deadline => Err(JoinError::Missing { rank, timeout }),
                _ => Ok(()),
            },
        )
    }

    /// The error to give up with, if a rank that has not arrived at `phase` never will.
    fn lost(&self, collective: Collective, phase: u64) -> Option<DeviceError> {
        let Meeting { memory, .. } = self.meeting.as_ref()?;
        let missing = |rank: usize| !memory.has_arrived(rank, phase);
        // A rank that has arrived may go: hence the second look, after it was found gone.
        let gone = |rank: usize| missing(rank) && peer::is_gone(memory.seat(rank)) && missing(rank);
        let found = || (0..self.world_size).find(|&rank| rank != self.rank && gone(rank));
        let rank = memory.lost_rank().or_else(|| found().map(|rank| memory.declare_lost(rank)))?;
        Some(DeviceError::PeerLost { rank, collective: collective.name() })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(Meeting { memory, .. }) = &self.meeting {
            peer::leave(memory.seat(self.rank));
            memory.ring_bell(RingBell::Always);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

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

#![allow(unsafe_code, reason = "the room of the CPU's shared-memory collectives")]

mod memory;
mod peer;
mod wait;

use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError, atomic::fence};
use std::time::{Duration, Instant};

pub use memory::GroupMemory;

use crate::{DeviceError, Result};
use memory::SLOT_BYTES;
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

/// Why a rank could not join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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

/// The collectives, so that ranks notice when they are not in the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collective {
    Join = 0,
    Barrier = 1,
    AllReduce = 2,
    AllGather = 3,
    Broadcast = 4,
}

impl Collective {
    fn name(self) -> &'static str {
        match self {
            Collective::Join => "join",
            Collective::Barrier => "barrier",
            Collective::AllReduce => "all_reduce",
            Collective::AllGather => "all_gather",
            Collective::Broadcast => "broadcast",
        }
    }
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
        let progress = Mutex::new(Progress { phase: 0, lost: None });
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

    /// Returns once every rank has called it.
    pub fn barrier(&self) -> Result<()> {
        match self.turn::<u32>(Collective::Barrier)? {
            Some(mut turn) => turn.meet(0).map(drop),
            None => Ok(()),
        }
    }

    /// Begins a collective on elements of type `T`; none where the rank is alone.
    pub(crate) fn turn<T: Word>(&self, collective: Collective) -> Result<Option<Turn<'_, T>>> {
        let Some(meeting) = &self.meeting else { return Ok(None) };
        let progress = meeting.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match &progress.lost {
            Some(lost) => Err(lost.clone()),
            None => Ok(Some(Turn { group: self, meeting, progress, collective, words: PhantomData })),
        }
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

/// Four bytes without forbidden values, so that any content of shared memory is a value.
///
/// # Safety
/// The implementing type has 4 bytes, alignment 4 or less, and every bit pattern is valid.
pub(crate) unsafe trait Word: Copy {}
// SAFETY: four bytes, any of which form a float.
unsafe impl Word for f32 {}
// SAFETY: four bytes, any of which form an integer.
unsafe impl Word for u32 {}

/// One rank's part in a running collective.
pub(crate) struct Turn<'a, T> {
    group: &'a Group,
    meeting: &'a Meeting,
    progress: MutexGuard<'a, Progress>,
    collective: Collective,
    words: PhantomData<T>,
}

/// What every rank wrote in the phase that was just met.
pub(crate) struct Slots<'a, T> {
    memory: &'a GroupMemory,
    phase: u64,
    words: usize,
    kind: PhantomData<&'a [T]>,
}

impl<T: Word> Turn<'_, T> {
    /// Most elements of one phase.
    pub(crate) const WORDS_MAX: usize = SLOT_BYTES / size_of::<T>();

    /// Where this rank writes the first `words` elements of the next phase; it holds leftovers.
    pub(crate) fn slot(&mut self, words: usize) -> &mut [T] {
        assert!(self.progress.lost.is_none() && words <= Self::WORDS_MAX, "{words} words for a slot, or a lost group");
        let start = self.meeting.memory.slot(self.group.rank, self.progress.phase + 1);
        // SAFETY: the slot is this rank's own, aligned and long enough, and `&mut self` makes this the only view of it
        // here. SYNC: slot free again. Other ranks read this half two phases ago and arrived at the phase since, which
        // `meet` has seen.
        unsafe { std::slice::from_raw_parts_mut(start.cast::<T>().as_ptr(), words) }
    }

    /// Publishes this rank's slot, waits for every rank's, and shows the first `words` elements of each.
    pub(crate) fn meet(&mut self, words: usize) -> Result<Slots<'_, T>> {
        assert!(self.progress.lost.is_none() && words <= Self::WORDS_MAX, "{words} words for a slot, or a lost group");
        self.progress.phase += 1;
        let phase = self.progress.phase;
        let Meeting { memory, waiting, .. } = self.meeting;
        self.arrive(phase, words);
        let missing = || self.group.lost(self.collective, phase).map_or(Ok(()), Err);
        if let Err(lost) = wait::until(memory, *waiting, || memory.all_arrived(phase), missing) {
            self.progress.lost = Some(lost.clone());
            return Err(lost);
        }
        self.check_agreement(phase, words);
        Ok(Slots { memory, phase, words, kind: PhantomData })
    }

    fn arrive(&self, phase: u64, words: usize) {
        let memory = &self.meeting.memory;
        let seat = memory.seat(self.group.rank);
        seat.tag[phase as usize % 2].store(tag(self.collective, words), Relaxed);
        // SYNC: slot visible to readers, met by the load in `GroupMemory::has_arrived`; and slot free again, since this
        // rank has read all it wanted of the phase before.
        seat.arrived.store(phase, Release);
        fence(SeqCst); // SYNC: arrival or sleeper seen, the other half is in `wait::sleep`.
        // Of ranks that arrive at once, the last one's fence orders it after all others: it sees them and rings.
        if memory.all_arrived(phase) {
            memory.ring_bell(RingBell::IfSomeoneSleeps);
        }
    }

    /// Ranks that are in different collectives compute nonsense: better to die and be started again.
    fn check_agreement(&self, phase: u64, words: usize) {
        for rank in 0..self.group.world_size {
            let theirs = self.meeting.memory.seat(rank).tag[phase as usize % 2].load(Relaxed);
            let ours = tag(self.collective, words);
            assert_eq!(theirs, ours, "rank {rank} is not in the same {} of {words} words", self.collective.name());
        }
    }
}

fn tag(collective: Collective, words: usize) -> u64 {
    (collective as u64) << 56 | words as u64
}

impl<T: Word> Slots<'_, T> {
    /// What `rank` wrote.
    pub(crate) fn of(&self, rank: usize) -> &[T] {
        let start = self.memory.slot(rank, self.phase);
        // SAFETY: the slot lies within the segment, aligned and long enough, and any bits are a `T`. Its owner wrote it
        // before it arrived (SYNC: slot visible to readers) and writes it again only after this rank has arrived at the
        // next phase, for which the borrow of the turn by `self` must end.
        unsafe { std::slice::from_raw_parts(start.cast::<T>().as_ptr(), self.words) }
    }
}

#[cfg(test)]
pub(crate) mod tests;

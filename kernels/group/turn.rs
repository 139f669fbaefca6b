//! One rank's part in one collective: phase by phase it fills its slot, meets the others, and reads theirs.

use std::marker::PhantomData;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::Instant;

use super::memory::{GroupMemory, SLOT_BYTES};
use super::wait::{self, RingBell};
use super::{Group, Meeting, Progress};
use crate::Result;

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
    pub(super) fn name(self) -> &'static str {
        match self {
            Collective::Join => "join",
            Collective::Barrier => "barrier",
            Collective::AllReduce => "all_reduce",
            Collective::AllGather => "all_gather",
            Collective::Broadcast => "broadcast",
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

impl<'a, T: Word> Turn<'a, T> {
    pub(super) fn new(
        group: &'a Group,
        meeting: &'a Meeting,
        progress: MutexGuard<'a, Progress>,
        collective: Collective,
    ) -> Self {
        Self { group, meeting, progress, collective, words: PhantomData }
    }

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
        if !memory.all_arrived(phase) {
            let missing = || self.group.lost(self.collective, phase).map_or(Ok(()), Err);
            let since = Instant::now();
            let outcome = wait::until(memory, *waiting, || memory.all_arrived(phase), missing);
            self.progress.waited += since.elapsed();
            if let Err(lost) = outcome {
                self.progress.lost = Some(lost.clone());
                return Err(lost);
            }
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

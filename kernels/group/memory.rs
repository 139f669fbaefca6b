//! The segment itself: a header, one seat per rank, and every rank's two slots.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::JoinError;

/// Bytes of one slot: the piece in which long tensors travel. Two slots of a rank stay within a core's cache.
pub(super) const SLOT_BYTES: usize = 512 << 10;

/// Two cache lines: neighbours are fetched in pairs.
const LINE_BYTES: usize = 128;

/// Changes whenever the layout below does.
const VERSION: u32 = 1;

/// Shared memory for one group, and whatever keeps it mapped. Clones are the same memory.
#[derive(Clone)]
pub struct GroupMemory {
    start: NonNull<u8>,
    bytes: usize,
    world_size: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory is only touched through atomics and through slots that the protocol in `group.rs` hands to one
// writer at a time; the owner is Send and Sync itself.
unsafe impl Send for GroupMemory {}
// SAFETY: as above.
unsafe impl Sync for GroupMemory {}

/// What concerns all ranks.
#[repr(C, align(128))]
pub(super) struct Header {
    /// `VERSION` and world size, once the first rank has come.
    layout: AtomicU64,
    /// One more than a rank that is known to be lost; 0 while none is.
    lost: AtomicU32,
    /// The futex on which ranks sleep.
    pub bell: AtomicU32,
    /// How many of them do.
    pub sleepers: AtomicU32,
}

/// What concerns one rank, written by that rank only.
#[repr(C, align(128))]
pub(super) struct Seat {
    /// The last phase whose slot this rank has filled. Alone on its line but for what is read with it.
    pub arrived: AtomicU64,
    /// Which collective of how many words that was, per half.
    pub tag: [AtomicU64; 2],
    /// See `peer`.
    pub member: Member,
}

/// Who sits there. On a line of its own: it is looked at seldom and must not slow the seat down.
#[repr(C, align(128))]
pub(super) struct Member {
    /// The process; 0 before it has joined.
    pub pid: AtomicU32,
    /// When that process was started (clock ticks since boot), so that another one with its id is not taken for it.
    pub start_ticks: AtomicU64,
    /// 1 once the rank has left in good order.
    pub left: AtomicU32,
}

pub(super) fn bytes(world_size: usize) -> usize {
    slots_offset(world_size) + world_size * 2 * SLOT_BYTES
}

const fn slots_offset(world_size: usize) -> usize {
    (size_of::<Header>() + world_size * size_of::<Seat>()).next_multiple_of(4096)
}

impl GroupMemory {
    /// Shared memory that somebody else mapped.
    ///
    /// # Safety
    /// The `bytes` from `start` on are readable and writable as long as `owner` lives, held zeros before the first rank
    /// joined, and are touched by nothing but the [`super::Group`]s of one group.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, bytes, world_size: 0, _owner: owner }
    }

    /// Memory of this process, for ranks that are threads.
    pub fn heap(world_size: usize) -> Self {
        #[derive(Clone)]
        #[repr(C, align(128))]
        struct Line([u8; LINE_BYTES]);
        let mut lines = vec![Line([0; LINE_BYTES]); bytes(world_size).div_ceil(LINE_BYTES)];
        let start = NonNull::from(lines.as_mut_slice()).cast();
        let bytes = lines.len() * LINE_BYTES;
        // SAFETY: the vector's memory stays where it is while the vector lives, and nobody else sees it.
        unsafe { Self::new(start, bytes, Arc::new(lines)) }
    }

    /// Refuses memory in which `world_size` ranks cannot meet; everything below relies on this.
    pub(super) fn check(&mut self, world_size: usize) -> Result<(), JoinError> {
        let needed = bytes(world_size);
        if self.bytes < needed {
            return Err(JoinError::TooSmall { bytes: self.bytes, needed, world_size });
        }
        if !self.start.as_ptr().addr().is_multiple_of(LINE_BYTES) {
            return Err(JoinError::Misaligned(LINE_BYTES));
        }
        self.world_size = world_size;
        Ok(())
    }

    /// The first rank writes down what the memory is laid out for, the others compare.
    pub(super) fn claim_layout(&self, world_size: usize) -> Result<(), JoinError> {
        let ours = u64::from(VERSION) << 32 | world_size as u64;
        match self.header().layout.compare_exchange(0, ours, AcqRel, Acquire) {
            Err(theirs) if theirs != ours => Err(JoinError::OtherLayout),
            _ => Ok(()),
        }
    }

    pub(super) fn header(&self) -> &Header {
        assert!(self.world_size > 0, "the memory was checked");
        // SAFETY: `check` saw the alignment and the length; a header is nothing but atomics, valid with any bits.
        unsafe { self.start.cast::<Header>().as_ref() }
    }

    pub(super) fn seat(&self, rank: usize) -> &Seat {
        assert!(rank < self.world_size, "rank {rank} of {}", self.world_size);
        // SAFETY: `check` saw the alignment and the length, and sizes are multiples of the alignment; a seat is nothing
        // but atomics, valid with any bits.
        unsafe { self.start.byte_add(size_of::<Header>()).cast::<Seat>().add(rank).as_ref() }
    }

    /// The [`SLOT_BYTES`] that `rank` fills in `phase`, aligned to a page.
    pub(super) fn slot(&self, rank: usize, phase: u64) -> NonNull<u8> {
        assert!(rank < self.world_size, "rank {rank} of {}", self.world_size);
        let index = 2 * rank + (phase % 2) as usize;
        // SAFETY: `check` saw that all slots lie within the memory.
        unsafe { self.start.byte_add(slots_offset(self.world_size) + index * SLOT_BYTES) }
    }

    /// Whether `rank` has filled its slot of `phase`.
    pub(super) fn has_arrived(&self, rank: usize, phase: u64) -> bool {
        // SYNC: slot visible to readers; slot free again. Met by the store in `Turn::arrive`.
        phase > 0 && self.seat(rank).arrived.load(Acquire) >= phase
    }

    pub(super) fn all_arrived(&self, phase: u64) -> bool {
        (0..self.world_size).all(|rank| self.has_arrived(rank, phase))
    }

    /// A rank that somebody has found lost.
    pub(super) fn lost_rank(&self) -> Option<usize> {
        self.header().lost.load(Acquire).checked_sub(1).map(|rank| rank as usize)
    }

    /// Tells everybody that `rank` is lost, and answers which rank was found lost first.
    pub(super) fn declare_lost(&self, rank: usize) -> usize {
        let first = self.header().lost.compare_exchange(0, rank as u32 + 1, AcqRel, Acquire);
        self.ring_bell(super::RingBell::Always);
        first.map_or_else(|known| known as usize - 1, |_| rank)
    }

    /// How many ranks sleep; exact only after a `SeqCst` fence.
    pub(super) fn sleepers(&self) -> u32 {
        self.header().sleepers.load(Relaxed)
    }
}

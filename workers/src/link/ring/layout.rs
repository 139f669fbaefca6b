//! How a ring lies in its memory: a control block, one line per reader, then the room for frames.

use std::{
    mem::offset_of,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
};

use crossbeam::utils::CachePadded;

use super::{
    atomics::{Atomic, Atomics, Native},
    bell::Bell,
};
use crate::link::{
    error::LinkError,
    name::Role,
    shm::{Segment, Shared, View},
};

/// "shrdring" in the bytes of a little-endian machine.
const MAGIC: u64 = u64::from_le_bytes(*b"shrdring");
/// One higher whenever anything here changes.
const LAYOUT_VERSION: u64 = 1;
/// The smallest room.
const CAPACITY_MIN: usize = 4096;
/// The largest room: what crosses is token ids, and a million of them is 5 MB.
pub const CAPACITY_MAX: usize = 64 << 20;
/// The most readers of one ring.
pub const READERS_MAX: usize = 64;

/// What both ends of a ring agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingShape {
    /// Which ring of the link.
    pub role: Role,
    /// Of the group that it serves.
    pub epoch: u64,
    /// How many read it.
    pub readers: usize,
}

/// A ring's memory, checked, with neither end taken yet.
pub struct RingMemory<A: Atomics = Native> {
    pub(super) shape: RingShape,
    pub(super) capacity: usize,
    pub(super) name: String,
    pub(super) control: View<Control<A>>,
    pub(super) cursors: View<CachePadded<Cursor<A>>>,
    pub(super) words: View<A::Payload>,
}

/// The parts that both ends look at, each on a line of its own.
#[repr(C)]
pub(super) struct Control<A: Atomics> {
    header: CachePadded<Header<A>>,
    /// Bytes ever published.
    pub(super) published: CachePadded<A::Word>,
    /// Readers sleep on it: a frame came.
    pub(super) news: CachePadded<Bell<A>>,
    /// The writer sleeps on it: room came.
    pub(super) room: CachePadded<Bell<A>>,
}

#[repr(C)]
struct Header<A: Atomics> {
    magic: A::Word,
    layout_version: A::Word,
    epoch: A::Word,
    readers: A::Word,
    capacity: A::Word,
    writer_taken: A::Half,
}

/// One reader's line.
#[repr(C)]
pub(super) struct Cursor<A: Atomics> {
    /// Bytes ever taken.
    pub(super) taken: A::Word,
    owned: A::Half,
}

// SAFETY: `repr(C)`, each field made of atomics.
unsafe impl Shared for Control<Native> {}
// SAFETY: as above.
unsafe impl Shared for Cursor<Native> {}

const CURSORS_OFFSET: usize = size_of::<Control<Native>>();
const CURSOR_BYTES: usize = size_of::<CachePadded<Cursor<Native>>>();
const _: () = assert!(offset_of!(Control<Native>, published) >= 128 && CURSOR_BYTES >= 128, "one line each");

impl RingMemory {
    /// Creates the segment `name` with a ring of at least `room_bytes`.
    pub fn create(name: &str, shape: RingShape, room_bytes: usize) -> Result<(Self, Arc<Segment>), LinkError> {
        let capacity = capacity(room_bytes)?;
        if !(1..=READERS_MAX).contains(&shape.readers) {
            return Err(LinkError::Config(format!("{} readers, expected 1 to {READERS_MAX}", shape.readers)));
        }
        let segment = Segment::create(name, CURSORS_OFFSET + shape.readers * CURSOR_BYTES + capacity)?;
        let memory = Self::over(&segment, shape, capacity)?;
        memory.write_header();
        Ok((memory, segment))
    }

    /// Maps the ring in the segment `name` and refuses it unless it is of this `shape`.
    pub fn attach(name: &str, shape: RingShape) -> Result<Self, LinkError> {
        let segment = Segment::open(name)?;
        let control = segment.view::<Control<Native>>(0, 1)?;
        let capacity = control[0].header.check(name, shape)?;
        Self::over(&segment, shape, capacity)
    }

    fn over(segment: &Arc<Segment>, shape: RingShape, capacity: usize) -> Result<Self, LinkError> {
        Ok(Self {
            shape,
            capacity,
            name: segment.name().to_owned(),
            control: segment.view(0, 1)?,
            cursors: segment.view(CURSORS_OFFSET, shape.readers)?,
            words: segment.view(CURSORS_OFFSET + shape.readers * CURSOR_BYTES, capacity / 8)?,
        })
    }
}

impl<A: Atomics> RingMemory<A> {
    pub(super) fn write_header(&self) {
        let header = &self.control[0].header;
        header.layout_version.store(LAYOUT_VERSION, Relaxed);
        header.epoch.store(self.shape.epoch, Relaxed);
        header.readers.store(self.shape.readers as u64, Relaxed);
        header.capacity.store(self.capacity as u64, Relaxed);
        // SYNC: ring is complete (meets `Header::check`)
        header.magic.store(MAGIC, Release);
    }

    /// Makes the caller the ring's only writer.
    pub(super) fn take_writing_end(&self) -> Result<(), LinkError> {
        match self.control[0].header.writer_taken.fetch_add(1, Relaxed) {
            0 => Ok(()),
            _ => Err(self.taken("the writer".to_owned())),
        }
    }

    /// Makes the caller the only reader at `index`.
    pub(super) fn take_reading_end(&self, index: usize) -> Result<(), LinkError> {
        let Some(cursor) = self.cursors.get(index) else {
            let readers = self.shape.readers;
            return Err(LinkError::Config(format!("reader {index} of {}, which has {readers}", self.name)));
        };
        match cursor.owned.fetch_add(1, Relaxed) {
            0 => Ok(()),
            _ => Err(self.taken(self.shape.role.reader(index))),
        }
    }

    /// The largest frame, bytes: with half of the room, a large frame waits for its predecessor only.
    pub fn frame_bytes_max(&self) -> usize {
        self.capacity / 2 - 8
    }

    pub(super) fn corrupt(&self, found: String) -> LinkError {
        LinkError::Corrupt { segment: self.name.clone(), found }
    }

    fn taken(&self, end: String) -> LinkError {
        LinkError::Taken { segment: self.name.clone(), end }
    }
}

impl<A: Atomics> Header<A> {
    /// Compares the header with what was expected; answers the capacity.
    fn check(&self, segment: &str, shape: RingShape) -> Result<usize, LinkError> {
        let same = |what, found: u64, expected: u64| match found == expected {
            true => Ok(()),
            false => Err(LinkError::Mismatch { segment: segment.to_owned(), what, expected, found }),
        };
        // SYNC: ring is complete (meets `RingMemory::write_header`)
        same("magic number", self.magic.load(Acquire), MAGIC)?;
        same("layout version", self.layout_version.load(Relaxed), LAYOUT_VERSION)?;
        same("epoch", self.epoch.load(Relaxed), shape.epoch)?;
        same("reader count", self.readers.load(Relaxed), shape.readers as u64)?;
        let claimed = self.capacity.load(Relaxed);
        match usize::try_from(claimed) {
            Ok(bytes) if (CAPACITY_MIN..=CAPACITY_MAX).contains(&bytes) && bytes.is_power_of_two() => Ok(bytes),
            _ => Err(LinkError::Corrupt { segment: segment.to_owned(), found: format!("its capacity is {claimed}") }),
        }
    }
}

fn capacity(room_bytes: usize) -> Result<usize, LinkError> {
    match room_bytes {
        0..=CAPACITY_MAX => Ok(room_bytes.max(CAPACITY_MIN).next_power_of_two()),
        _ => Err(LinkError::Config(format!("a ring of {room_bytes} bytes; at most {CAPACITY_MAX} are of use"))),
    }
}

#[cfg(test)]
impl<A: Atomics> RingMemory<A> {
    /// One ring in ordinary memory, and as many handles on it as asked for.
    pub(super) fn in_heap(
        handles: usize,
        capacity: usize,
        readers: usize,
        word: impl Fn() -> A::Word,
        payload: impl Fn() -> A::Payload,
        half: impl Fn() -> A::Half,
    ) -> Vec<Self> {
        let bell = || CachePadded::new(Bell::new(half(), half()));
        let header = Header {
            magic: word(),
            layout_version: word(),
            epoch: word(),
            readers: word(),
            capacity: word(),
            writer_taken: half(),
        };
        let (header, published) = (CachePadded::new(header), CachePadded::new(word()));
        let control = View::from(vec![Control { header, published, news: bell(), room: bell() }]);
        let cursor = |_| CachePadded::new(Cursor { taken: word(), owned: half() });
        let cursors = View::from((0..readers).map(cursor).collect::<Vec<_>>());
        let words = View::from((0..capacity / 8).map(|_| payload()).collect::<Vec<_>>());
        let memory = |_| Self {
            shape: RingShape { role: Role::Steps, epoch: 1, readers },
            capacity,
            name: "a ring in the heap".to_owned(),
            control: control.clone(),
            cursors: cursors.clone(),
            words: words.clone(),
        };
        (0..handles).map(memory).collect()
    }
}

//! The writing end of a ring.

use std::{
    sync::atomic::Ordering::{Acquire, Release},
    time::Duration,
};

use super::{
    Waiting,
    atomics::{Atomic, Atomics, Native},
    frame,
    layout::RingMemory,
};
use crate::link::error::LinkError;

/// The one who publishes frames.
pub struct RingWriter<A: Atomics = Native> {
    memory: RingMemory<A>,
    waiting: Waiting,
    /// Bytes published so far.
    position: u64,
    /// The slowest reader's cursor when last looked at; it can only have advanced since.
    slowest: u64,
}

impl<A: Atomics> RingWriter<A> {
    /// Takes the writing end, which nobody else may have taken.
    pub fn new(memory: RingMemory<A>, waiting: Waiting) -> Result<Self, LinkError> {
        memory.take_writing_end()?;
        Ok(Self { memory, waiting, position: 0, slowest: 0 })
    }

    /// Puts a frame in for all readers. Waits for room up to `timeout`, then names the reader that leaves none; the frame
    /// is not published then, and may be tried again.
    pub fn publish(&mut self, payload: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let limit = self.memory.frame_bytes_max();
        if payload.len() > limit {
            return Err(LinkError::TooLarge { segment: self.memory.name.clone(), bytes: payload.len(), limit });
        }
        let size = frame::size(payload.len());
        self.make_room(size, timeout)?;
        let guard = frame::guard(self.memory.shape.epoch, self.position);
        frame::write(&self.memory.words, self.position, guard, payload);
        self.position += size;
        let control = &self.memory.control[0];
        // SYNC: frame visible to readers (meets `RingReader::published`)
        control.published.store(self.position, Release);
        control.news.ring();
        Ok(())
    }

    fn make_room(&mut self, size: u64, timeout: Duration) -> Result<(), LinkError> {
        // Every reader must have got past this position.
        let needed = (self.position + size).saturating_sub(self.memory.capacity as u64);
        if self.slowest >= needed {
            return Ok(());
        }
        let (memory, position, waiting) = (&self.memory, self.position, self.waiting);
        let look = || match slowest_reader(memory, position) {
            Ok(slowest) if slowest.taken < needed => None,
            outcome => Some(outcome),
        };
        match memory.control[0].room.wait(waiting, timeout, look) {
            Some(slowest) => self.slowest = slowest?.taken,
            None => return Err(self.full(timeout)),
        }
        Ok(())
    }

    fn full(&self, waited: Duration) -> LinkError {
        match slowest_reader(&self.memory, self.position) {
            Ok(slowest) => LinkError::Full {
                segment: self.memory.name.clone(),
                reader: self.memory.shape.role.reader(slowest.index),
                reader_index: slowest.index,
                behind_bytes: self.position - slowest.taken,
                waited,
            },
            Err(corrupt) => corrupt,
        }
    }
}

struct Slowest {
    index: usize,
    taken: u64,
}

/// Finds the reader furthest behind. A cursor beyond what was published, or further behind than the room is long, is a lie.
fn slowest_reader<A: Atomics>(memory: &RingMemory<A>, position: u64) -> Result<Slowest, LinkError> {
    let mut slowest = Slowest { index: 0, taken: position };
    for (index, cursor) in memory.cursors.iter().enumerate() {
        // SYNC: room is free again (meets `RingReader::advance`)
        let taken = cursor.taken.load(Acquire);
        if position.checked_sub(taken).is_none_or(|behind| behind > memory.capacity as u64) {
            let reader = memory.shape.role.reader(index);
            return Err(memory.corrupt(format!("{reader} claims to be at byte {taken} of {position}")));
        }
        if taken < slowest.taken {
            slowest = Slowest { index, taken };
        }
    }
    Ok(slowest)
}

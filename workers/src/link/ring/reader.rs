//! A reading end of a ring.

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

/// One of those who take frames: each takes all of them, in order.
pub struct RingReader<A: Atomics = Native> {
    memory: RingMemory<A>,
    index: usize,
    waiting: Waiting,
    /// Bytes taken so far. Our own memory: the cursor in the ring is written, never believed.
    position: u64,
    /// The frame taken last.
    frame: Vec<u8>,
}

impl<A: Atomics> RingReader<A> {
    /// Takes the reading end `index`, which nobody else may have taken.
    pub fn new(memory: RingMemory<A>, index: usize, waiting: Waiting) -> Result<Self, LinkError> {
        memory.take_reading_end(index)?;
        Ok(Self { memory, index, waiting, position: 0, frame: Vec::new() })
    }

    /// The next frame, or none if none came within `timeout`. After an error the ring is of no more use.
    pub fn take(&mut self, timeout: Duration) -> Result<Option<&[u8]>, LinkError> {
        let look = || Some(self.published()).filter(|&published| published != self.position);
        match self.memory.control[0].news.wait(self.waiting, timeout, look) {
            None => Ok(None),
            Some(published) => {
                let length = self.check(published)?;
                frame::read(&self.memory.words, self.position, length, &mut self.frame);
                self.advance(frame::size(length));
                Ok(Some(&self.frame))
            }
        }
    }

    fn published(&self) -> u64 {
        // SYNC: frame visible to readers (meets `RingWriter::publish`)
        self.memory.control[0].published.load(Acquire)
    }

    /// Judges what claims to be the next frame; answers the length of its payload.
    fn check(&self, published: u64) -> Result<usize, LinkError> {
        let (position, capacity) = (self.position, self.memory.capacity as u64);
        let available = published.wrapping_sub(position);
        if available > capacity || !published.is_multiple_of(8) {
            let found = format!("{published} bytes are said to be published, {position} of them taken");
            return Err(self.memory.corrupt(found));
        }
        let (length, guard) = frame::header(&self.memory.words, position);
        if guard != frame::guard(self.memory.shape.epoch, position) {
            return Err(self.memory.corrupt(format!("no frame of this epoch begins at byte {position}")));
        }
        if length > self.memory.frame_bytes_max() || frame::size(length) > available {
            return Err(self.memory.corrupt(format!("a frame of {length} bytes within {available} published")));
        }
        Ok(length)
    }

    fn advance(&mut self, size: u64) {
        self.position += size;
        // SYNC: room is free again (meets `slowest_reader`): the payload is copied out before this.
        self.memory.cursors[self.index].taken.store(self.position, Release);
        self.memory.control[0].room.ring();
    }
}

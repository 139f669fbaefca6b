//! The numbers of a step on their way to the GPU.
//!
//! From ordinary memory the driver may copy only after all that was enqueued before: a step could not be prepared while
//! the one before it is computed. From page-locked memory the GPU fetches them itself when their turn comes.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::{driver::Pointer, pinned::Pinned};
use crate::Result;

/// The most that is staged, bytes: what a step of thousands of tokens says. More goes the driver's way.
pub(crate) const STAGED_BYTES_MAX: usize = 1 << 20;

/// Copies that may be on their way: more than two steps make, so that none waits for a place.
const PLACES: usize = 8;

/// Places that are used in turn.
pub(crate) struct Staging {
    places: Vec<Pinned>,
    next: usize,
}

impl Staging {
    /// For copies on `stream`.
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let places = (0..PLACES).map(|_| Pinned::new(stream, STAGED_BYTES_MAX)).collect::<Result<_>>()?;
        Ok(Self { places, next: 0 })
    }

    /// Enqueues a copy of `values`, at most [`STAGED_BYTES_MAX`], to the device.
    ///
    /// # Safety
    /// As many bytes at `to` are the caller's to write.
    pub(crate) unsafe fn send(&mut self, to: Pointer, values: &[u8]) -> Result<()> {
        let place = self.next;
        self.next = (place + 1) % PLACES;
        // SAFETY: the caller's promise.
        unsafe { self.places[place].send(to, values) }
    }
}

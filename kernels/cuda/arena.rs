//! Memory for activations: a few large pieces of the driver's, cut into runs as they are asked for.
//!
//! Which run is given depends on nothing but the order of takings and givings, so that a step that is like the one before
//! it finds its tensors at the same addresses: what a recorded step needs. All work is on one stream, so that a run may
//! be given to the next as soon as its owner is dropped: whoever gets it comes after.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{Arc, Mutex, PoisonError},
};

use super::driver::{Driver, Pointer};
use crate::{DeviceError, Result};

/// A device's memory for activations.
#[derive(Clone)]
pub(crate) struct Arena {
    driver: Driver,
    state: Arc<Mutex<State>>,
}

/// A run of bytes that somebody has. It goes back when it is dropped.
pub(crate) struct Buffer {
    pointer: Pointer,
    bytes: usize,
    home: Arena,
}

struct State {
    /// Free runs: bytes by address. Neighbours within a piece are one run.
    free: BTreeMap<u64, usize>,
    /// Where pieces begin. They may well lie side by side, and yet no copy may go from one into the next.
    pieces: BTreeSet<u64>,
    /// Bytes taken from the driver.
    bytes: usize,
    growth: Growth,
    /// Whether nothing can be taken from the driver: a step is being recorded.
    is_frozen: bool,
}

/// How memory is taken from the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// In pieces larger than is asked for.
    Pieces,
    /// A piece for each run, never joined: whoever writes beyond a run's end is seen by tools that watch memory.
    Guarded,
}

/// Runs begin where the widest load of a kernel can read.
const GRAIN: usize = 256;

/// The least that is taken from the driver at once, bytes.
const PIECE_BYTES_MIN: usize = 8 << 20;

impl Arena {
    /// Nothing yet. `SHARDWIRE_GUARD_MEMORY=1` is for tools that watch memory.
    pub(crate) fn new(driver: Driver) -> Self {
        let growth = match env::var_os("SHARDWIRE_GUARD_MEMORY").is_some_and(|value| value == "1") {
            true => Growth::Guarded,
            false => Growth::Pieces,
        };
        let state = State { free: BTreeMap::new(), pieces: BTreeSet::new(), bytes: 0, growth, is_frozen: false };
        Self { driver, state: Arc::new(Mutex::new(state)) }
    }

    /// The first free run that is long enough.
    pub(crate) fn take(&self, bytes: usize) -> Result<Buffer> {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pointer = match state.cut(bytes) {
            Some(pointer) => pointer,
            None => {
                let piece = state.piece(bytes)?;
                let pointer = self.driver.allocate(piece, "activations")?;
                state.bytes += piece;
                state.pieces.insert(pointer.0);
                if piece > bytes {
                    state.free.insert(pointer.0 + bytes as u64, piece - bytes);
                }
                pointer
            }
        };
        Ok(Buffer { pointer, bytes, home: self.clone() })
    }

    /// The very run that a recorded step writes its result to.
    ///
    /// # Panics
    /// If somebody has a part of it: between recorded steps nobody may keep tensors of the step before.
    pub(crate) fn retake(&self, pointer: Pointer, bytes: usize) -> Buffer {
        let bytes = bytes.max(1).next_multiple_of(GRAIN);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(state.cut_at(pointer.0, bytes), "the result of a recorded step lies where somebody has a tensor");
        Buffer { pointer, bytes, home: self.clone() }
    }

    /// While a step is recorded nothing can be taken from the driver; `record` is told of it by an error.
    pub(crate) fn without_growing<T>(&self, record: impl FnOnce() -> T) -> T {
        let freeze = |frozen| self.state.lock().unwrap_or_else(PoisonError::into_inner).is_frozen = frozen;
        freeze(true);
        let result = record();
        freeze(false);
        result
    }

    /// Bytes taken from the driver.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl State {
    fn cut(&mut self, bytes: usize) -> Option<Pointer> {
        let (&address, _) = match self.growth {
            // A run of another size would have no guard behind it.
            Growth::Guarded => self.free.iter().find(|(_, free)| **free == bytes)?,
            Growth::Pieces => self.free.iter().find(|(_, free)| **free >= bytes)?,
        };
        self.cut_at(address, bytes).then_some(Pointer(address))
    }

    fn cut_at(&mut self, address: u64, bytes: usize) -> bool {
        let Some((&start, &free)) = self.free.range(..=address).next_back() else { return false };
        let (end, free_end) = (address + bytes as u64, start + free as u64);
        if end > free_end {
            return false;
        }
        self.free.remove(&start);
        if start < address {
            self.free.insert(start, (address - start) as usize);
        }
        if end < free_end {
            self.free.insert(end, (free_end - end) as usize);
        }
        true
    }

    /// Bytes to take from the driver where so many are wanted.
    fn piece(&self, bytes: usize) -> Result<usize> {
        if self.is_frozen {
            let fault = "it needs more memory than it did before".into();
            return Err(DeviceError::Failed { doing: "recording a step".into(), fault });
        }
        Ok(match self.growth {
            Growth::Pieces => bytes.max(self.bytes / 4).next_multiple_of(PIECE_BYTES_MIN),
            Growth::Guarded => bytes,
        })
    }

    fn give_back(&mut self, address: u64, bytes: usize) {
        let (mut start, mut end) = (address, address + bytes as u64);
        if self.growth != Growth::Guarded {
            if !self.pieces.contains(&end)
                && let Some(after) = self.free.remove(&end)
            {
                end += after as u64;
            }
            if !self.pieces.contains(&start)
                && let Some((&before, &free)) = self.free.range(..start).next_back()
                && before + free as u64 == start
            {
                self.free.remove(&before);
                start = before;
            }
        }
        self.free.insert(start, (end - start) as usize);
    }
}

impl Buffer {
    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.home.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.give_back(self.pointer.0, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(growth: Growth) -> State {
        let (free, pieces) = (BTreeMap::from([(0x1000, 0x1000)]), BTreeSet::from([0x1000]));
        State { free, pieces, bytes: 0x1000, growth, is_frozen: false }
    }

    #[test]
    fn runs_are_cut_from_the_first_that_fits_and_joined_again() {
        let mut state = state(Growth::Pieces);
        let taken: Vec<u64> = [0x200, 0x400, 0x100].map(|bytes| state.cut(bytes).expect("there is room").0).into();
        assert_eq!(taken, [0x1000, 0x1200, 0x1600]);
        assert_eq!(state.cut(0x1000), None);
        state.give_back(0x1200, 0x400);
        assert_eq!(state.cut(0x300), Some(Pointer(0x1200)), "the first gap that is long enough");
        state.give_back(0x1200, 0x300);
        state.give_back(0x1600, 0x100);
        state.give_back(0x1000, 0x200);
        assert_eq!(state.free, BTreeMap::from([(0x1000, 0x1000)]));
    }

    #[test]
    fn pieces_that_lie_side_by_side_stay_apart() {
        let mut state = state(Growth::Pieces);
        state.pieces.insert(0x2000);
        state.give_back(0x2000, 0x800);
        assert_eq!(state.free, BTreeMap::from([(0x1000, 0x1000), (0x2000, 0x800)]));
        assert!(state.cut_at(0x1000, 0x1000));
        state.give_back(0x1000, 0x1000);
        assert_eq!(state.free, BTreeMap::from([(0x1000, 0x1000), (0x2000, 0x800)]));
        assert!(!state.cut_at(0x1800, 0x1000));
    }

    #[test]
    fn a_run_is_taken_again_where_it_was_unless_somebody_has_it() {
        let mut state = state(Growth::Pieces);
        assert!(state.cut_at(0x1800, 0x400));
        assert_eq!(state.free, BTreeMap::from([(0x1000, 0x800), (0x1c00, 0x400)]));
        assert!(!state.cut_at(0x1700, 0x200) && !state.cut_at(0x1e00, 0x300) && !state.cut_at(0x800, 0x100));
    }

    #[test]
    fn while_a_step_is_recorded_nothing_grows() {
        assert!(State { is_frozen: true, ..state(Growth::Pieces) }.piece(256).is_err());
        assert_eq!(state(Growth::Guarded).piece(256).expect("allowed"), 256);
        assert_eq!(state(Growth::Pieces).piece(256).expect("allowed"), PIECE_BYTES_MIN);
    }
}

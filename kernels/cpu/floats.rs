//! Vectors of f32 that begin on a cache line, so that eight-lane loads do not straddle two.

use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A growable vector of f32, aligned to a cache line.
#[derive(Default)]
pub(crate) struct Floats {
    lines: Vec<Line>,
    length: usize,
}

impl Floats {
    /// An empty one.
    pub(crate) const fn new() -> Self {
        Self { lines: Vec::new(), length: 0 }
    }

    /// Makes it `length` long; old contents stay, new ones are zeros or what was there before it was last shortened.
    pub(crate) fn resize(&mut self, length: usize) {
        let lines = length.div_ceil(16);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0.0; 16]));
        }
        self.length = length;
    }

    /// The bytes of all elements.
    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes = size_of_val::<[f32]>(self);
        // SAFETY: f32 are bytes, and any address will do for those.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), bytes) }
    }

    /// The bytes of all elements.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = size_of_val::<[f32]>(self);
        // SAFETY: as above, `self` is borrowed exclusively, and any bytes are f32.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), bytes) }
    }

    /// How long it can get without asking the allocator.
    pub(crate) fn capacity(&self) -> usize {
        self.lines.capacity() * 16
    }
}

impl Deref for Floats {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: lines are arrays of 16 f32 end to end without padding, and `resize` made enough of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Floats {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_as_long_as_asked() {
        let mut floats = Floats::new();
        for length in [0, 1, 16, 17, 1000, 3] {
            floats.resize(length);
            assert_eq!(floats.len(), length);
            assert_eq!(floats.as_ptr().addr() % 64, 0);
            floats.fill(1.0);
            assert!(floats.capacity() >= length);
        }
    }
}

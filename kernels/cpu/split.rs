//! One output, many writers.

use std::{marker::PhantomData, ops::Range};

/// A slice whose parts are written by several threads at once.
pub(crate) struct Split<'a, T> {
    start: *mut T,
    length: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` from which `part` hands out disjoint pieces, as its callers promise.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    /// Borrows the whole.
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), length: data.len(), data: PhantomData }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No element is in two parts that are alive at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "disjoint parts of one exclusive borrow")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {}", self.length);
        // SAFETY: within the borrowed slice, as just asserted, and nobody else's, as promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

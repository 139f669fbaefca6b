//! Large pages for memory that is read here and there.

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// The smallest page that a system has.
const PAGE_BYTES: usize = 4096;

/// Asks the system to back a slice by large pages when it is first touched: then one entry of the processor's table of
/// pages reaches 2 MiB, not 4 KiB. A system that has none goes on as before.
pub(crate) fn ask_for_large<T>(slice: &mut [T]) {
    let start = slice.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE_BYTES);
    let bytes = size_of_val(slice).saturating_sub(skipped) / PAGE_BYTES * PAGE_BYTES;
    let Some(first) = NonNull::new(start.wrapping_add(skipped)).filter(|_| bytes > 0) else { return };
    // SAFETY: whole pages of the slice, which is borrowed exclusively; the advice leaves their contents as they are.
    let _ = unsafe { madvise(first.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
}

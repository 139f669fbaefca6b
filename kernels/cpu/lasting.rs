//! Memory for keys and values: the process's own, or of a file that outlives it. What a rank had completely computed when it
//! was killed is in the file still, and the rank that takes its place goes on with it.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::Arc,
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::pages::ask_for_large;
use crate::{DeviceError, Result};

/// Large pages are of this size, and each part of a file begins with one.
const ALIGNMENT: u64 = 2 << 20;

/// Numbers of which every pattern of bits is one, zero bytes being 0.
pub(crate) trait Plain: Copy + Default {}

impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for u8 {}
impl Plain for i8 {}

/// Where a cache's memory comes from, part by part.
pub(crate) enum Source {
    /// The process's own.
    Own,
    /// A file, from this byte on.
    File(Arc<File>, u64),
}

impl Source {
    /// Zeros, or what the same part of the file held before.
    pub(crate) fn take<T: Plain>(&mut self, count: usize) -> Result<Lasting<T>> {
        let refused = || DeviceError::OutOfMemory {
            device: "cpu".into(),
            bytes: count.saturating_mul(size_of::<T>()),
            purpose: "the KV cache".into(),
        };
        // Where `vec!` would abort, and a file would promise more than there is.
        Vec::<T>::new().try_reserve_exact(count).map_err(|_| refused())?;
        let mut taken = match self {
            // `vec!` itself takes untouched pages, which cost nothing until used.
            Self::Own => Lasting::Own(vec![T::default(); count]),
            Self::File(file, at) => {
                let mapped = Mapped::new(file, *at, count).map_err(|_| refused())?;
                *at += mapped.bytes().next_multiple_of(ALIGNMENT);
                Lasting::Mapped(mapped)
            }
        };
        // Blocks of a sequence lie anywhere: with small pages each costs a walk through the tables of pages.
        ask_for_large(&mut taken);
        Ok(taken)
    }
}

/// Numbers in either kind of memory.
pub(crate) enum Lasting<T> {
    /// The process's own.
    Own(Vec<T>),
    /// A file's.
    Mapped(Mapped<T>),
}

impl<T> Deref for Lasting<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Own(own) => own,
            // SAFETY: `Mapped::new` mapped so many numbers there, any bytes being one, and nobody writes while they are
            // borrowed: another process maps them only when this one is gone (the server starts ranks so).
            Self::Mapped(Mapped { first, count }) => unsafe { slice::from_raw_parts(first.as_ptr(), *count) },
        }
    }
}

impl<T> DerefMut for Lasting<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Own(own) => own,
            // SAFETY: as above; and `self` is borrowed exclusively.
            Self::Mapped(Mapped { first, count }) => unsafe { slice::from_raw_parts_mut(first.as_ptr(), *count) },
        }
    }
}

/// A part of a file, mapped until this is dropped.
pub(crate) struct Mapped<T> {
    first: NonNull<T>,
    count: usize,
}

// SAFETY: it owns its mapping as a `Vec<T>` owns its memory.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Plain> Mapped<T> {
    /// Maps `count` numbers from byte `at` on, a multiple of [`ALIGNMENT`]. A file that is shorter is lengthened by zeros.
    fn new(file: &File, at: u64, count: usize) -> io::Result<Self> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let Some(length) = NonZeroUsize::new(bytes) else { return Ok(Self { first: NonNull::dangling(), count }) };
        let end = at.checked_add(bytes as u64).ok_or(io::ErrorKind::OutOfMemory)?;
        if file.metadata()?.len() < end {
            file.set_len(end)?;
        }
        let at = i64::try_from(at).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at no address that anybody has; the file is at least that long, and nobody shortens it.
        let first = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, at) }?;
        Ok(Self { first: first.cast(), count })
    }
}

impl<T> Mapped<T> {
    fn bytes(&self) -> u64 {
        (self.count * size_of::<T>()) as u64
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            // SAFETY: what `new` mapped, once, and nobody borrows it any more.
            let _ = unsafe { munmap(self.first.cast(), self.count * size_of::<T>()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_held_is_there_again() {
        let name = std::env::temp_dir().join(format!("shardwire-lasting-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&name).expect("a file");
        std::fs::remove_file(&name).expect("its name is not needed");
        let file = Arc::new(file);
        let take = || {
            let mut source = Source::File(file.clone(), 0);
            let parts = (source.take::<u16>(1000), source.take::<f32>(0), source.take::<f32>(70));
            (parts.0.expect("memory"), parts.1.expect("none"), parts.2.expect("memory"))
        };
        let (mut first, _, mut last) = take();
        assert!(first.iter().all(|&number| number == 0) && last.iter().all(|&number| number == 0.0));
        (first[999], last[0], last[69]) = (7, 1.5, 2.5);
        drop((first, last));
        let (first, none, last) = take();
        assert_eq!((first[998], first[999], none.len()), (0, 7, 0));
        assert_eq!((last[0], last[1], last[69]), (1.5, 0.0, 2.5));
        let mut own = Source::Own.take::<i8>(3).expect("memory");
        own[1] = 4;
        assert_eq!(own[..], [0, 4, 0]);
        assert!(matches!(Source::File(file, 0).take::<f32>(usize::MAX), Err(DeviceError::OutOfMemory { .. })));
    }
}

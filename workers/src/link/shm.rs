//! Named segments of shared memory, and typed views of them. A room for `unsafe`: beyond it, shared memory is slices of
//! atomics.
//!
//! A segment is sized by `posix_fallocate`. A bare `ftruncate` would succeed on a full `/dev/shm` and the first write to
//! a missing page would kill the process with SIGBUS; this way the creator gets an error while it can still tell it.
//! The `shared_memory` crate maps the segment; creating it is done here since that crate only truncates.

use std::{
    any::Any,
    fmt, io,
    ops::Deref,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use crossbeam::utils::CachePadded;
use kernels::group::GroupMemory;
use nix::{
    errno::Errno,
    fcntl::{OFlag, posix_fallocate},
    sys::{
        mman::{shm_open, shm_unlink},
        stat::Mode,
    },
};
use shared_memory::{Shmem, ShmemConf, ShmemError};

use super::error::LinkError;

/// Segments are a whole number of these.
pub const PAGE_BYTES: usize = 4096;

/// Shared memory under a name, mapped into this process for as long as this value lives. The creator takes the name
/// away again, at the latest when the value is dropped.
pub struct Segment {
    map: Shmem,
    name: String,
    /// Whether the name exists and is ours to remove.
    named: AtomicBool,
}

// SAFETY: the mapping belongs to the process, not to a thread. `Shmem` is only read here (address, length) until it is
// dropped, and reading those takes no lock and changes nothing.
unsafe impl Send for Segment {}
// SAFETY: as above; the shared bytes themselves are reached through atomics only (`Shared`), or through raw pointers
// whose users give their own reasons.
unsafe impl Sync for Segment {}

impl Segment {
    /// Creates a segment of zeros, at least `bytes` long, that only this user may open. Fails if the name exists.
    pub fn create(name: &str, bytes: usize) -> Result<Arc<Self>, LinkError> {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let file = shm_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| system("create", name, e))?;
        let segment = allocate(&file, name, bytes).and_then(|()| Self::open(name));
        match segment {
            Ok(segment) => {
                segment.named.store(true, Ordering::Relaxed);
                Ok(segment)
            }
            Err(error) => {
                let _ = shm_unlink(name);
                Err(error)
            }
        }
    }

    /// Maps a segment that another process created.
    pub fn open(name: &str) -> Result<Arc<Self>, LinkError> {
        let map = ShmemConf::new().os_id(name).open().map_err(|error| match error {
            ShmemError::MapOpenFailed(errno) => system("open", name, Errno::from_raw(errno as i32)),
            other => LinkError::System { action: "open", segment: name.to_owned(), source: io::Error::other(other) },
        })?;
        Ok(Arc::new(Self { map, name: name.to_owned(), named: AtomicBool::new(false) }))
    }

    /// Takes the name away if this process gave it: nobody can attach any more, and nothing remains once the last
    /// process has gone, however it goes. The memory stays mapped. May be called again.
    pub fn unlink(&self) {
        if self.named.swap(false, Ordering::Relaxed)
            && let Err(error) = shm_unlink(self.name.as_str())
        {
            tracing::warn!("could not remove the shared-memory segment {}: {error}", self.name);
        }
    }

    /// The segment's name, with its leading slash; it may be gone from the file system.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address of the first byte; aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_ptr()
    }

    /// Length, bytes: a whole number of pages, never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// `count` values of `T`, the first at `offset` bytes.
    pub fn view<T: Shared>(self: &Arc<Self>, offset: usize, count: usize) -> Result<View<T>, LinkError> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > self.len()) {
            let found = format!("it has {} bytes, too few for what it claims to hold", self.len());
            return Err(LinkError::Corrupt { segment: self.name.clone(), found });
        }
        assert!(offset.is_multiple_of(align_of::<T>()) && align_of::<T>() <= PAGE_BYTES, "a view must be aligned");
        // SAFETY: offset + count values lie within the mapping (checked above), so the sum stays inside one object.
        let first = unsafe { self.as_ptr().add(offset) }.cast();
        let first = NonNull::new(first).expect("a mapping is never at address zero");
        Ok(View { first, count, _keep: self.clone() })
    }

    /// The meeting's segment as the place where CPU ranks meet. Nobody else in this process may hold it.
    pub(crate) fn into_group_memory(self: Arc<Self>) -> GroupMemory {
        assert_eq!(Arc::strong_count(&self), 1, "the meeting belongs to the group alone");
        let (start, bytes) = (NonNull::new(self.as_ptr()).expect("a mapping is never at address zero"), self.len());
        // SAFETY: the mapping lives as long as the `Arc` that goes along, and was zeros when the server created it for
        // this start of the group. Views hold an `Arc` too, so there is none here; other processes open a meeting for
        // their groups only.
        unsafe { GroupMemory::new(start, bytes, self) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.unlink();
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("name", &self.name).field("bytes", &self.len()).finish()
    }
}

/// Makes the segment's memory real now, or says that there is none.
fn allocate(file: &impl std::os::fd::AsFd, name: &str, bytes: usize) -> Result<(), LinkError> {
    let length = libc_offset(bytes)?;
    loop {
        match posix_fallocate(file, 0, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => continue, // what was allocated before the signal stays allocated
            Err(Errno::ENOSPC | Errno::ENOMEM | Errno::EFBIG) => {
                return Err(LinkError::NoRoom { segment: name.to_owned(), bytes });
            }
            Err(errno) => return Err(system("allocate", name, errno)),
        }
    }
}

fn libc_offset(bytes: usize) -> Result<i64, LinkError> {
    i64::try_from(bytes).map_err(|_| LinkError::Config(format!("a segment of {bytes} bytes")))
}

fn system(action: &'static str, segment: &str, errno: Errno) -> LinkError {
    LinkError::System { action, segment: segment.to_owned(), source: errno.into() }
}

/// Types that processes may share: any bits are a valid value, every access is atomic, nothing is dropped.
///
/// # Safety
/// The type consists of atomics (and padding) only, in an order fixed by `repr(C)` or `repr(transparent)`.
pub unsafe trait Shared: Send + Sync + 'static {}

// SAFETY: an atomic.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic.
unsafe impl Shared for AtomicU64 {}
// SAFETY: nothing but copies of something shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}
// SAFETY: something shared, and padding (`repr(C)`-like by its documentation: the value stands at its beginning).
unsafe impl<T: Shared> Shared for CachePadded<T> {}

/// Declares a `repr(C)` struct of shared fields; one that holds anything else does not compile.
macro_rules! shared_struct {
    ($(#[$attribute:meta])* $visible:vis struct $name:ident { $($(#[$doc:meta])* $shown:vis $field:ident: $kind:ty,)* }) => {
        $(#[$attribute])*
        #[repr(C)]
        $visible struct $name { $($(#[$doc])* $shown $field: $kind,)* }

        // SAFETY: `repr(C)`, and the bounds make the compiler check that every field is shared.
        #[allow(unsafe_code)]
        unsafe impl $crate::link::shm::Shared for $name where $($kind: $crate::link::shm::Shared),* {}
    };
}
pub(crate) use shared_struct;

/// A slice of shared values that keeps its memory alive.
pub struct View<T> {
    first: NonNull<T>,
    count: usize,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a view is a shared slice and an `Arc`; it may go wherever `&[T]` may go.
unsafe impl<T: Sync> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<T> {}

impl<T> Deref for View<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `first` points at `count` values (checked where the view was made) that live as long as `_keep`; any
        // bits are a valid `T: Shared`, and since its bytes are atomics, other processes may write them meanwhile.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

/// Tests and models run a ring in ordinary memory.
#[cfg(test)]
impl<T: Send + Sync + 'static> From<Vec<T>> for View<T> {
    fn from(values: Vec<T>) -> Self {
        let keep: Arc<Vec<T>> = Arc::new(values);
        let first = NonNull::new(keep.as_ptr().cast_mut()).expect("a vector's pointer is never null");
        Self { first, count: keep.len(), _keep: keep }
    }
}

#[cfg(test)]
impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self { first: self.first, count: self.count, _keep: self._keep.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, path::PathBuf};

    use super::*;
    use crate::link::name::{LinkName, Role};

    fn fresh_name() -> String {
        LinkName::random().segment(0, Role::Meeting)
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from(format!("/dev/shm{name}"))
    }

    #[test]
    fn a_segment_is_private_allocated_and_zero() {
        let name = fresh_name();
        let segment = Segment::create(&name, 3 * PAGE_BYTES - 1).unwrap();
        assert_eq!(segment.len(), 3 * PAGE_BYTES);
        let file = std::fs::metadata(path(&name)).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
        assert!(file.blocks() * 512 >= segment.len() as u64, "every page must exist");
        let words = segment.view::<AtomicU64>(0, segment.len() / 8).unwrap();
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let name = fresh_name();
        let (ours, theirs) = (Segment::create(&name, 100).unwrap(), Segment::open(&name).unwrap());
        ours.view::<AtomicU32>(64, 1).unwrap()[0].store(7, Ordering::Relaxed);
        assert_eq!(theirs.view::<AtomicU32>(64, 1).unwrap()[0].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn the_name_goes_early_and_the_memory_stays() {
        let name = fresh_name();
        let segment = Segment::create(&name, 100).unwrap();
        let view = segment.view::<AtomicU64>(0, 1).unwrap();
        segment.unlink();
        segment.unlink();
        assert!(!path(&name).exists());
        drop(segment);
        view[0].store(1, Ordering::Relaxed);
        assert!(matches!(Segment::open(&name), Err(LinkError::System { action: "open", .. })));
    }

    #[test]
    fn dropping_the_creator_removes_the_name_and_dropping_a_guest_does_not() {
        let name = fresh_name();
        let segment = Segment::create(&name, 100).unwrap();
        drop(Segment::open(&name).unwrap());
        assert!(path(&name).exists());
        drop(segment);
        assert!(!path(&name).exists());
    }

    #[test]
    fn a_name_is_given_once() {
        let name = fresh_name();
        let segment = Segment::create(&name, 100).unwrap();
        assert!(matches!(Segment::create(&name, 100), Err(LinkError::System { action: "create", .. })));
        assert!(path(&name).exists(), "the loser must not remove the winner's name");
        drop(segment);
    }

    #[test]
    fn more_than_the_machine_has_is_an_error_and_leaves_nothing() {
        let name = fresh_name();
        let refused = Segment::create(&name, 1 << 50);
        assert!(matches!(refused, Err(LinkError::NoRoom { bytes, .. }) if bytes == 1 << 50), "{refused:?}");
        assert!(!path(&name).exists());
    }

    #[test]
    fn a_view_beyond_the_end_is_refused() {
        let segment = Segment::create(&fresh_name(), PAGE_BYTES).unwrap();
        assert!(segment.view::<AtomicU64>(0, PAGE_BYTES / 8).is_ok());
        for (offset, count) in [(8, PAGE_BYTES / 8), (PAGE_BYTES, 1), (0, usize::MAX), (usize::MAX - 7, 1)] {
            assert!(matches!(segment.view::<AtomicU64>(offset, count), Err(LinkError::Corrupt { .. })));
        }
    }
}

//! Read-only mappings of model files: the one room of this folder with unsafe code.

use std::{fs::File, ops::Range, path::Path, sync::Arc};

use memmap2::{Mmap, UncheckedAdvice};

use super::LoadError;

/// A whole file in the address space; its pages are read when first touched. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps the file at `path`. An empty file is refused: nothing here is ever legitimately empty.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |cause| LoadError::unreadable(path, &cause);
        let file = File::open(path).map_err(unreadable)?;
        let kind = file.metadata().map_err(unreadable)?;
        if !kind.is_file() {
            return Err(LoadError::corrupt(path, "is not a regular file"));
        }
        if kind.len() == 0 {
            return Err(LoadError::corrupt(path, "is empty"));
        }
        // SAFETY: the mapping is private and read-only, and only ever seen as bytes, for which any content is valid.
        // A process that shortens the file while it is mapped would end us by SIGBUS, as it does every program that maps
        // files; model files are replaced by renaming, not rewritten in place.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Ok(Self(Arc::new(map)))
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Lets the system take the memory of these bytes back; whoever reads them again has them read from the file again.
    pub(crate) fn forget(&self, range: Range<usize>) {
        // SAFETY: the mapping is of a file, private and never written to: dropping its pages loses nothing.
        // Advice that the system does not take is no fault: the memory stays in use, as it was.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }

    /// The bytes with their owner, as a matrix holds them.
    pub(crate) fn shared(&self) -> kernels::matrix::Bytes {
        self.0.clone()
    }
}

//! GGUF files, versions 2 and 3: metadata and tensors in one file.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod metadata;
mod names;
mod tensors;

use std::path::{Path, PathBuf};

use cursor::Cursor;
use kernels::Matrix;
pub use metadata::{Metadata, MetadataValue};

use super::{LoadError, MappedFile, TensorInfo, TensorTable};

/// A mapped GGUF file. Tensors are asked for by their Hugging Face names.
pub(crate) struct Gguf {
    path: PathBuf,
    map: MappedFile,
    metadata: Metadata,
    tensors: TensorTable,
}

impl Gguf {
    /// Maps the file and reads all before the tensors' bytes.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let map = MappedFile::open(path)?;
        let corrupt = |fault: String| LoadError::corrupt(path, fault);
        let mut cursor = Cursor::new(map.bytes());
        let header = Header::read(&mut cursor).map_err(corrupt)?;
        let metadata = Metadata::read(&mut cursor, header.metadata_count).map_err(corrupt)?;
        if metadata.unsigned("split.count").is_some_and(|count| count > 1) {
            return Err(corrupt("is one part of a split model: merge the parts into one file first".into()));
        }
        let tensors = tensors::read(path, &mut cursor, header.tensor_count, &metadata)?;
        Ok(Self { path: path.into(), map, metadata, tensors })
    }

    /// The file's settings.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors' names, the file's own.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file's own name for a tensor; one that has none keeps its Hugging Face name.
    pub(crate) fn own_name(name: &str) -> String {
        names::own_name(name).unwrap_or_else(|| name.into())
    }

    /// The tensor's place.
    pub(crate) fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(&Self::own_name(name))
    }

    /// The tensor as a matrix; `None` if absent or of more than two dimensions.
    pub(crate) fn matrix(&self, name: &str) -> Option<Matrix> {
        self.find(name)?.matrix(&self.map)
    }
}

/// What stands at the very beginning.
struct Header {
    tensor_count: u64,
    metadata_count: u64,
}

impl Header {
    fn read(cursor: &mut Cursor) -> Result<Self, String> {
        if cursor.take(4)? != b"GGUF" {
            return Err("is not a GGUF file: it does not begin with the letters GGUF".into());
        }
        match cursor.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err("is a big-endian GGUF file, which is not read".into());
            }
            version => return Err(format!("has GGUF version {version}; versions 2 and 3 are read")),
        }
        Ok(Self { tensor_count: cursor.u64()?, metadata_count: cursor.u64()? })
    }
}

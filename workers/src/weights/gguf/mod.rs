//! GGUF files, versions 2 and 3: metadata and tensors in one file, or in several whose names are numbered.
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cursor;
mod metadata;
mod names;
mod split;
mod tensors;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use cursor::Cursor;
pub use metadata::{Metadata, MetadataValue};
pub(crate) use names::place;

use super::{Elements, FileTensor, LoadError, MappedFile, TensorInfo, TensorTable};

/// A model's mapped GGUF files.
pub(crate) struct Gguf {
    /// The first one has the model's settings.
    files: Vec<File>,
    /// Tensor name → which file.
    places: BTreeMap<String, usize>,
}

struct File {
    path: Arc<Path>,
    map: MappedFile,
    metadata: Metadata,
    tensors: TensorTable,
}

impl Gguf {
    /// Maps the file, and the others where it is one of several, and reads all before the tensors' bytes.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path)?;
        let count = file.metadata.unsigned("split.count").unwrap_or(1);
        let files = if count > 1 { split::open_all(path, count)? } else { vec![file] };
        let mut places = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if places.insert(name.clone(), index).is_some() {
                    return Err(LoadError::tensor(&file.path, name, "comes twice: in another part of the model, too"));
                }
            }
        }
        Ok(Self { files, places })
    }

    /// The model's settings.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.files[0].metadata
    }

    /// The file with the settings.
    pub(crate) fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// The tensors' names, the file's own.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&self, name: &str) -> Option<FileTensor> {
        let (name, place) = self.places.get_key_value(name)?;
        let File { path, map, tensors, .. } = &self.files[*place];
        let info = tensors.get(name)?.clone();
        Some(FileTensor { name: name.as_str().into(), path: path.clone(), file: map.clone(), info })
    }

    /// Bytes of all files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map.bytes().len() as u64).sum()
    }
}

impl File {
    fn open(path: &Path) -> Result<Self, LoadError> {
        let map = MappedFile::open(path)?;
        let corrupt = |fault: String| LoadError::corrupt(path, fault);
        let mut cursor = Cursor::new(map.bytes());
        let header = Header::read(&mut cursor).map_err(corrupt)?;
        let metadata = Metadata::read(&mut cursor, header.metadata_count).map_err(corrupt)?;
        let tensors = tensors::read(path, &mut cursor, header.tensor_count, &metadata)?;
        Ok(Self { path: path.into(), map, metadata, tensors })
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

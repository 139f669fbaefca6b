//! A Hugging Face folder: `model.safetensors`, or several files with `model.safetensors.index.json`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{Fields, FileTensor, LoadError, MappedFile, TensorTable, safetensors};

/// The single file's name.
const SINGLE: &str = "model.safetensors";
/// Says in which of several files each tensor lies.
const INDEX: &str = "model.safetensors.index.json";

/// The folder's weights: each tensor is in one of the mapped files.
pub(crate) struct Folder {
    files: Vec<File>,
    /// Tensor name → which file.
    places: BTreeMap<String, usize>,
}

struct File {
    path: Arc<Path>,
    map: MappedFile,
    tensors: TensorTable,
}

impl Folder {
    /// Maps the folder's weight files and reads their headers.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let index = path.join(INDEX);
        if index.exists() { Self::indexed(path, &index) } else { Self::single(&path.join(SINGLE)) }
    }

    fn single(path: &Path) -> Result<Self, LoadError> {
        if !path.exists() {
            return Err(LoadError::corrupt(path, format!("is missing, and so is {INDEX}")));
        }
        let file = File::open(path)?;
        let places = file.tensors.keys().map(|name| (name.clone(), 0)).collect();
        Ok(Self { files: vec![file], places })
    }

    fn indexed(folder: &Path, index: &Path) -> Result<Self, LoadError> {
        let mut files: Vec<File> = Vec::new();
        let mut places = BTreeMap::new();
        let fields = Fields::open(index)?;
        let weight_map = fields.required("weight_map", fields.fields("weight_map")?)?;
        for (tensor, value) in weight_map.entries() {
            let path: PathBuf = folder.join(file_name(index, tensor, value)?);
            let place = match files.iter().position(|file| *file.path == *path) {
                Some(place) => place,
                None => {
                    files.push(File::open(&path)?);
                    files.len() - 1
                }
            };
            if !files[place].tensors.contains_key(tensor) {
                return Err(LoadError::tensor(&path, tensor, format!("is missing, though {INDEX} places it here")));
            }
            places.insert(tensor.clone(), place);
        }
        Ok(Self { files, places })
    }

    /// The tensors' names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor of this name.
    pub(crate) fn tensor(&self, name: &str) -> Option<FileTensor> {
        let (name, place) = self.places.get_key_value(name)?;
        let File { path, map, tensors } = &self.files[*place];
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
        let tensors = safetensors::tensors(path, &map)?;
        Ok(Self { path: path.into(), map, tensors })
    }
}

/// An index may only name files of its own folder.
fn file_name<'a>(index: &Path, tensor: &str, value: &'a Value) -> Result<&'a str, LoadError> {
    let plain = |name: &&str| Path::new(name).file_name().is_some_and(|file| file == *name);
    let fault = || LoadError::corrupt(index, format!("weight_map.{tensor} must be a file name, got {value}"));
    value.as_str().filter(plain).ok_or_else(fault)
}

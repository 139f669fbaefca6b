//! A model on disk: its settings, and its tensors by their Hugging Face names.

use std::path::{Path, PathBuf};

use kernels::Matrix;

use super::{Fields, GenerationConfig, LoadError, Metadata, TensorInfo, folder::Folder, gguf::Gguf};
use crate::models::ModelConfig;

/// A GGUF file or a Hugging Face folder, opened: settings parsed, weights mapped, not a weight read.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    generation_config: GenerationConfig,
    source: Source,
}

enum Source {
    Gguf(Gguf),
    Folder(Folder),
}

impl Checkpoint {
    /// Opens the `.gguf` file or the folder at `path`.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let kind = std::fs::metadata(path).map_err(|cause| LoadError::unreadable(path, &cause))?;
        if kind.is_dir() {
            return Self::open_folder(path);
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            return Self::open_gguf(path);
        }
        Err(LoadError::corrupt(path, "is neither a .gguf file nor a folder with config.json and safetensors"))
    }

    fn open_folder(path: &Path) -> Result<Self, LoadError> {
        Self::open_folder_with(path, &path.join("config.json"))
    }

    /// Opens the folder at `path` with the settings of another `config` than its own `config.json`.
    pub fn open_folder_with(path: &Path, config: &Path) -> Result<Self, LoadError> {
        let config = ModelConfig::from_json(&Fields::open(config)?)?;
        let generation_config = GenerationConfig::from_folder(path, &config.eos_ids)?;
        Ok(Self { path: path.into(), config, generation_config, source: Source::Folder(Folder::open(path)?) })
    }

    fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let gguf = Gguf::open(path)?;
        let config = ModelConfig::from_gguf(&gguf)?;
        let generation_config = GenerationConfig::from_gguf(gguf.metadata());
        Ok(Self { path: path.into(), config, generation_config, source: Source::Gguf(gguf) })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The makers' advice for sampling, and the tokens that end a text.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// A GGUF file's settings, the tokenizer's among them; `None` for a folder.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf.metadata()),
            Source::Folder(_) => None,
        }
    }

    /// A view of the tensor that Hugging Face calls `name`, a vector as one row.
    pub fn tensor(&self, name: &str) -> Result<Matrix, LoadError> {
        let Some((_, path)) = self.find(name) else {
            return Err(LoadError::tensor(&self.path, self.own_name(name), "is missing"));
        };
        let matrix = match &self.source {
            Source::Gguf(gguf) => gguf.matrix(name),
            Source::Folder(folder) => folder.matrix(name),
        };
        matrix.ok_or_else(|| LoadError::tensor(path, self.own_name(name), "has more than two dimensions"))
    }

    /// The same, refused unless it is `rows × columns`.
    pub fn tensor_of_shape(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        let matrix = self.tensor(name)?;
        if (matrix.rows(), matrix.columns()) == (rows, columns) {
            return Ok(matrix);
        }
        let path = self.find(name).map_or(&*self.path, |(_, path)| path);
        let fault = format!(
            "has shape {} × {}, the model's settings ask for {rows} × {columns}",
            matrix.rows(),
            matrix.columns()
        );
        Err(LoadError::tensor(path, self.own_name(name), fault))
    }

    /// The file's own names of all tensors.
    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.source {
            Source::Gguf(gguf) => Box::new(gguf.names()),
            Source::Folder(folder) => Box::new(folder.names()),
        }
    }

    /// The file's own name for a tensor.
    pub(crate) fn own_name(&self, name: &str) -> String {
        match &self.source {
            Source::Gguf(_) => Gguf::own_name(name),
            Source::Folder(_) => name.into(),
        }
    }

    fn find(&self, name: &str) -> Option<(&TensorInfo, &Path)> {
        match &self.source {
            Source::Gguf(gguf) => gguf.find(name).map(|tensor| (tensor, gguf.path())),
            Source::Folder(folder) => folder.find(name),
        }
    }
}

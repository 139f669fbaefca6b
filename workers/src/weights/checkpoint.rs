//! A model on disk: its settings, and its tensors by their Hugging Face names.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    Encoding, Fields, FileTensor, GenerationConfig, Layout, LoadError, Metadata, Place, Stored,
    folder::Folder,
    forms::{self, Found, Tensors},
    gguf::Gguf,
    random::Random,
    stored::Transposed,
};
use crate::models::{ModelConfig, WeightOptions};

/// A GGUF file or a Hugging Face folder, opened: settings parsed, weights mapped, not a weight read.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    generation_config: GenerationConfig,
    source: Source,
    layout: Layout,
    encoding: Encoding,
}

enum Source {
    Gguf(Gguf),
    Folder(Folder),
    /// No files: whatever is asked for is there, and random.
    Random(Random),
}

impl Checkpoint {
    /// Opens what is at `path`, or only its settings where weights are to be random.
    pub fn open_with(path: &Path, options: WeightOptions) -> Result<Self, LoadError> {
        if options.random { Self::open_random(path) } else { Self::open(path) }
    }

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

    /// The model that the folder's `config.json` describes, with random weights: for tests of scale.
    fn open_random(path: &Path) -> Result<Self, LoadError> {
        let fields = Fields::open(&path.join("config.json"))?;
        let config = ModelConfig::from_json(&fields)?;
        let generation_config = GenerationConfig::from_folder(path, &config.eos_ids)?;
        let source = Source::Random(Random::of(&fields)?);
        let encoding = Encoding::from_json(&fields)?.of_plain_weights();
        Ok(Self { path: path.into(), config, generation_config, source, layout: Layout::HuggingFace, encoding })
    }

    fn open_folder(path: &Path) -> Result<Self, LoadError> {
        Self::open_folder_with(path, &path.join("config.json"))
    }

    /// Opens the folder at `path` with the settings of another `config` than its own `config.json`.
    pub fn open_folder_with(path: &Path, config: &Path) -> Result<Self, LoadError> {
        let fields = Fields::open(config)?;
        let config = ModelConfig::from_json(&fields)?;
        let encoding = Encoding::from_json(&fields)?;
        let generation_config = GenerationConfig::from_folder(path, &config.eos_ids)?;
        let folder = Folder::open(path)?;
        let layout = Layout::of_folder(folder.names());
        Ok(Self { path: path.into(), config, generation_config, source: Source::Folder(folder), layout, encoding })
    }

    fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let gguf = Gguf::open(path)?;
        let config = ModelConfig::from_gguf(&gguf)?;
        let generation_config = GenerationConfig::from_gguf(gguf.metadata());
        let (source, layout, encoding) = (Source::Gguf(gguf), Layout::Gguf, Encoding::default());
        Ok(Self { path: path.into(), config, generation_config, source, layout, encoding })
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

    /// How its matrices are encoded, if other tools have quantized them, and what its makers advise for plain ones.
    pub fn encoding(&self) -> &Encoding {
        &self.encoding
    }

    /// A GGUF file's settings, the tokenizer's among them; `None` for a folder.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf.metadata()),
            Source::Folder(_) | Source::Random(_) => None,
        }
    }

    /// Bytes of all its weight files.
    pub fn file_bytes(&self) -> u64 {
        match &self.source {
            Source::Gguf(gguf) => gguf.file_bytes(),
            Source::Folder(folder) => folder.file_bytes(),
            Source::Random(_) => 0,
        }
    }

    /// The matrix that Hugging Face calls `name`; no weight of it is read yet. Refused unless it is `rows × columns`.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Stored, LoadError> {
        if let Source::Random(random) = &self.source {
            return Ok(random.matrix(name, rows, columns));
        }
        let place = self.place(name);
        let Found { mut stored, tensor, is_plain } = self.whole(&place, columns)?;
        if place.transposed && is_plain && ((stored.rows(), stored.columns()) != (rows, columns) || rows == columns) {
            stored = turned(stored, &tensor)?;
        }
        let part = place.rows.of(stored.rows());
        let found = (part.count(stored.rows()), stored.columns());
        if found != (rows, columns) {
            let wanted = format!("the model's settings ask for {rows} × {columns}");
            return Err(tensor.fault(format!("has shape {} × {}, {wanted}", found.0, found.1)));
        }
        Ok(part.take(stored))
    }

    /// All that lies at a place; `columns` are those that it should have.
    fn whole(&self, place: &Place, columns: usize) -> Result<Found, LoadError> {
        let missing = |name: &str| LoadError::tensor(&self.path, name, "is missing");
        let find = |name: &str| self.tensor(name);
        let tensors = Tensors { name: &place.tensor, expert: place.expert, find: &find, missing: &missing };
        forms::find(&tensors, columns, &self.encoding)?.ok_or_else(|| missing(&place.tensor))
    }

    /// Elements `own` of the vector `name` of `length` elements.
    pub fn vector(&self, name: &str, length: usize, own: Range<usize>) -> Result<Vec<f32>, LoadError> {
        if let Source::Random(random) = &self.source {
            return random.vector(name, length, own);
        }
        let Place { tensor: own_name, expert, rows: part, .. } = self.place(name);
        let tensor = self.existing(&own_name)?;
        let count = tensor.info.count().unwrap_or(0);
        // Stacked vectors lie end to end.
        let stacked = tensor.info.shape.first().copied().filter(|_| expert.is_some());
        let each = stacked.map_or(count, |vectors| count.checked_div(vectors).unwrap_or(0));
        let start = expert.unwrap_or(0) * each;
        let part = part.of(each);
        let found = if start + each > count { 0 } else { part.count(each) };
        if found != length {
            let fault = format!("has shape 1 × {found}, the model's settings ask for 1 × {length}");
            return Err(tensor.fault(fault));
        }
        Ok(part.take_values(tensor.values(start..start + each)?)[own].to_vec())
    }

    /// Whether there is a tensor, or what stands for it, that Hugging Face calls `name`.
    pub fn has(&self, name: &str) -> bool {
        self.holds(&self.place(name).tensor)
    }

    /// Whether all elements of a tensor of the file's own name are zeros.
    pub(crate) fn is_zero(&self, own_name: &str) -> bool {
        let values = self.tensor(own_name).and_then(|tensor| tensor.values(0..tensor.info.count()?).ok());
        values.is_some_and(|values| values.iter().all(|value| *value == 0.0))
    }

    /// The file's own names of all tensors.
    pub(crate) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.source {
            Source::Gguf(gguf) => Box::new(gguf.names()),
            Source::Folder(folder) => Box::new(folder.names()),
            Source::Random(_) => Box::new(std::iter::empty()),
        }
    }

    /// The file's own name of the tensor that holds what Hugging Face calls `name`.
    pub(crate) fn own_name(&self, name: &str) -> String {
        self.place(name).tensor
    }

    fn place(&self, name: &str) -> Place {
        self.layout.place(name, &self.config, &|own| self.holds(own))
    }

    fn holds(&self, own_name: &str) -> bool {
        forms::stands_for(own_name, &|name| self.tensor(name).is_some())
    }

    fn existing(&self, own_name: &str) -> Result<FileTensor, LoadError> {
        self.tensor(own_name).ok_or_else(|| LoadError::tensor(&self.path, own_name, "is missing"))
    }

    fn tensor(&self, own_name: &str) -> Option<FileTensor> {
        match &self.source {
            Source::Gguf(gguf) => gguf.tensor(own_name),
            Source::Folder(folder) => folder.tensor(own_name),
            Source::Random(_) => None,
        }
    }
}

/// A matrix whose tensor is `[inputs, outputs]`.
fn turned(stored: Stored, tensor: &FileTensor) -> Result<Stored, LoadError> {
    let blocks = || tensor.fault(format!("is {}, which can't be stored transposed", tensor.info.elements.name()));
    Ok(Stored::new(Transposed::of(stored).ok_or_else(blocks)?))
}

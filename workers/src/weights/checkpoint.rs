//! A model on disk: its settings, and its tensors by their Hugging Face names.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    Fields, FileTensor, GenerationConfig, Layout, LoadError, Metadata, Part, Place, Stored,
    folder::Folder,
    gguf::Gguf,
    random::Random,
    stored::{EveryRow, Plain, Transposed},
};
use crate::models::{ModelConfig, WeightOptions};

/// A GGUF file or a Hugging Face folder, opened: settings parsed, weights mapped, not a weight read.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    generation_config: GenerationConfig,
    source: Source,
    layout: Layout,
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
        Ok(Self { path: path.into(), config, generation_config, source, layout: Layout::HuggingFace })
    }

    fn open_folder(path: &Path) -> Result<Self, LoadError> {
        Self::open_folder_with(path, &path.join("config.json"))
    }

    /// Opens the folder at `path` with the settings of another `config` than its own `config.json`.
    pub fn open_folder_with(path: &Path, config: &Path) -> Result<Self, LoadError> {
        let config = ModelConfig::from_json(&Fields::open(config)?)?;
        let generation_config = GenerationConfig::from_folder(path, &config.eos_ids)?;
        let folder = Folder::open(path)?;
        let layout = Layout::of_folder(folder.names());
        Ok(Self { path: path.into(), config, generation_config, source: Source::Folder(folder), layout })
    }

    fn open_gguf(path: &Path) -> Result<Self, LoadError> {
        let gguf = Gguf::open(path)?;
        let config = ModelConfig::from_gguf(&gguf)?;
        let generation_config = GenerationConfig::from_gguf(gguf.metadata());
        Ok(Self { path: path.into(), config, generation_config, source: Source::Gguf(gguf), layout: Layout::Gguf })
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

    /// The matrix that Hugging Face calls `name`; nothing of it is read yet. Refused unless it is `rows × columns`.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Stored, LoadError> {
        if let Source::Random(random) = &self.source {
            return Ok(random.matrix(name, rows, columns));
        }
        let Place { tensor: own_name, expert, transposed, rows: part } = self.place(name);
        let tensor = self.existing(&own_name)?;
        let misshapen = |tensor: &FileTensor, (found_rows, found_columns): (usize, usize)| {
            let wanted = format!("the model's settings ask for {rows} × {columns}");
            tensor.fault(format!("has shape {found_rows} × {found_columns}, {wanted}"))
        };
        let mut stored = Stored::new(Plain::of(tensor.clone())?);
        if let Some(expert) = expert {
            let each = tensor.info.shape[1..tensor.info.shape.len().max(2) - 1].iter().product::<usize>();
            let own = expert * each..(expert + 1) * each;
            if tensor.info.shape.len() < 3 || own.end > stored.rows() {
                return Err(
                    tensor.fault(format!("has no matrix number {expert}: its shape is {:?}", tensor.info.shape))
                );
            }
            stored = stored.row_range(own);
        }
        if transposed && (stored.rows(), stored.columns()) != (rows, columns) || transposed && rows == columns {
            let blocks = || tensor.fault(format!("is {:?}, which can't be stored transposed", tensor.info.elements));
            stored = Stored::new(Transposed::of(stored).ok_or_else(blocks)?);
        }
        let part = part.of(stored.rows());
        let found = (part.count(stored.rows()), stored.columns());
        if found != (rows, columns) {
            return Err(misshapen(&tensor, found));
        }
        Ok(match part {
            Part::EveryOther(first) => Stored::new(EveryRow::of(stored, first, 2)),
            Part::Run(start, length) => stored.row_range(start..start + length),
            Part::All | Part::Half(_) => stored,
        })
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
        let (start, each) = match expert {
            None => (0, count),
            Some(expert) => {
                let each = count.checked_div(tensor.info.shape[0]).unwrap_or(0);
                (expert * each, each)
            }
        };
        let part = part.of(each);
        let found = part.count(each);
        if found != length || start + each > count {
            let fault = format!("has shape 1 × {found}, the model's settings ask for 1 × {length}");
            return Err(tensor.fault(fault));
        }
        let values = tensor.values(start..start + each)?;
        let values: Vec<f32> = match part {
            Part::EveryOther(first) => values.into_iter().skip(first).step_by(2).collect(),
            Part::Run(first, length) => values[first..first + length].to_vec(),
            Part::All | Part::Half(_) => values,
        };
        Ok(values[own].to_vec())
    }

    /// Whether there is a tensor that Hugging Face calls `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensor(&self.place(name).tensor).is_some()
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
        self.layout.place(name, &self.config, &|own| self.tensor(own).is_some())
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

impl Part {
    /// Halves of so many rows as runs.
    fn of(self, rows: usize) -> Self {
        match self {
            Part::Half(which) => Part::Run(which * (rows / 2), rows / 2),
            // A run that reaches beyond the rows is no part of them.
            Part::Run(start, length) if start + length > rows => Part::Run(0, 0),
            part => part,
        }
    }

    /// How many rows of so many.
    fn count(self, rows: usize) -> usize {
        match self {
            Part::All => rows,
            Part::Half(_) => rows / 2,
            Part::EveryOther(first) => rows.saturating_sub(first).div_ceil(2),
            Part::Run(_, length) => length,
        }
    }
}

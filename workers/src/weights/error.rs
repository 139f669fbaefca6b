//! Why a model cannot be loaded: one line that names the file and the fault.

use std::path::{Path, PathBuf};

use kernels::DeviceError;
use thiserror::Error;

/// A model that cannot be loaded. All but the last two are faults of the files; each message is one line.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file that is missing or that the system refuses to give.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: String,
    },
    /// A file whose bytes do not hold together: truncated, or not of its format.
    #[error("{}: {fault}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not add up.
        fault: String,
    },
    /// A setting that is absent, absurd, or asks for what Shardwire does not have.
    #[error("{}: {fault}", path.display())]
    Config {
        /// The file with the setting.
        path: PathBuf,
        /// The key, its value and what it must be.
        fault: String,
    },
    /// A tensor that is missing, superfluous, or not as the configuration says.
    #[error("{}: tensor {tensor}: {fault}", path.display())]
    Tensor {
        /// The file (or the folder, where no file has the tensor).
        path: PathBuf,
        /// The tensor, by the file's own name for it.
        tensor: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A model that does not split over this many ranks: the operator's choice.
    #[error("{}: cannot be split over {world_size} ranks: {fault}", path.display())]
    Split {
        /// The model.
        path: PathBuf,
        /// The ranks asked for.
        world_size: usize,
        /// What does not split, and the sizes that work.
        fault: String,
    },
    /// The device refused: no memory, no kernel.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl LoadError {
    /// A refusal of the system, with its file.
    pub(crate) fn unreadable(path: &Path, cause: &std::io::Error) -> Self {
        Self::Unreadable { path: path.into(), cause: cause.to_string() }
    }

    /// Bytes that do not hold together.
    pub(crate) fn corrupt(path: &Path, fault: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), fault: one_line(fault.into()) }
    }

    /// A setting that cannot be followed.
    pub(crate) fn config(path: &Path, fault: impl Into<String>) -> Self {
        Self::Config { path: path.into(), fault: one_line(fault.into()) }
    }

    /// A tensor that is not what it should be.
    pub(crate) fn tensor(path: &Path, tensor: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), tensor: one_line(tensor.into()), fault: one_line(fault.into()) }
    }
}

/// Names and values come from files that may hold anything; the message stays one line of printable characters, with a
/// bound on its length.
fn one_line(text: String) -> String {
    const CHARACTERS_MAX: usize = 400;
    let printable = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    let mut line: String = text.chars().take(CHARACTERS_MAX).map(printable).collect();
    if line.len() < text.len() && text.chars().nth(CHARACTERS_MAX).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_one_short_line() {
        let name = format!("weight\n\u{1b}[31m{}", "x".repeat(10_000));
        let line = LoadError::tensor(Path::new("model.gguf"), name, "is missing").to_string();
        assert!(line.starts_with("model.gguf: tensor weight\u{FFFD}\u{FFFD}[31mxxx"), "{line}");
        assert!(line.ends_with("x…: is missing"), "{line}");
        assert!(!line.contains('\n') && line.chars().count() < 500);
    }
}

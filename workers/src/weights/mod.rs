//! From files to this rank's shard: safetensors folders and GGUF files, mapped, read only where needed.
//!
//! [`Checkpoint::open`] is the way in. What it hands out are views of mapped bytes, so a rank that takes some rows or
//! columns of a tensor never touches the rest. A file is an allegation until checked: each reader refuses, in one line
//! that names the file and the fault, whatever does not add up.

mod checkpoint;
mod convert;
mod encoding;
mod error;
mod folder;
mod forms;
mod generation;
pub mod gguf;
mod json;
mod layout;
#[allow(unsafe_code, reason = "mapping a file is the only way to read just a shard of it without copying")]
mod mapped;
mod part;
mod random;
mod safetensors;
mod stored;
mod tensor;

pub use checkpoint::Checkpoint;
pub(crate) use convert::{convert, target};
pub use encoding::{AtLoad, Encoding};
pub use error::LoadError;
pub(crate) use forms::belongs_to;
pub use generation::GenerationConfig;
pub use gguf::{Metadata, MetadataValue};
pub(crate) use json::Fields;
pub(crate) use layout::{Layout, Place};
pub(crate) use mapped::MappedFile;
pub(crate) use part::Part;
pub use stored::Stored;
pub(crate) use stored::transposed;
pub(crate) use tensor::{Elements, FileTensor, Raw, TensorInfo, TensorTable};

#[cfg(test)]
mod hostile;

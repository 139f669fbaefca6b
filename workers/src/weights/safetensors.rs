//! One safetensors file: the header, checked, and its tensors where they lie.
//! Format: <https://huggingface.co/docs/safetensors>.

use std::path::Path;

use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use kernels::DType;

use super::{Elements, LoadError, MappedFile, Raw, TensorInfo, TensorTable};

/// Bytes before the JSON header: its length, a little-endian u64.
const LENGTH_BYTES: usize = 8;

/// Reads the table of a mapped file. The format's own crate checks the header's bounds, that each tensor's bytes fit
/// its shape, and that the last one ends where the file does.
pub(crate) fn tensors(path: &Path, file: &MappedFile) -> Result<TensorTable, LoadError> {
    let (header_bytes, metadata) =
        SafeTensors::read_metadata(file.bytes()).map_err(|fault| LoadError::corrupt(path, in_words(&fault)))?;
    let data = LENGTH_BYTES + header_bytes;
    let mut table = TensorTable::new();
    for (name, info) in metadata.tensors() {
        let elements = elements(info.dtype).ok_or_else(|| {
            let fault = format!(
                "its dtype {:?} is not read; F32, F16, BF16, U16 (as bfloat16), F8_E4M3, I8, U8, I32 and I64 are",
                info.dtype
            );
            LoadError::tensor(path, &name, fault)
        })?;
        let tensor = TensorInfo { elements, shape: info.shape.clone(), offset: data + info.data_offsets.0 };
        table.insert(name, tensor);
    }
    Ok(table)
}

fn elements(stored: Dtype) -> Option<Elements> {
    match stored {
        Dtype::F32 => Some(Elements::Weights(DType::F32)),
        Dtype::F16 => Some(Elements::Weights(DType::F16)),
        // Paddle has no name for bfloat16 in these files and writes its bits.
        Dtype::BF16 | Dtype::U16 => Some(Elements::Weights(DType::BF16)),
        Dtype::F8_E4M3 => Some(Elements::Raw(Raw::F8E4M3)),
        Dtype::I8 => Some(Elements::Raw(Raw::I8)),
        Dtype::U8 | Dtype::F8_E8M0 => Some(Elements::Raw(Raw::U8)),
        Dtype::I32 => Some(Elements::Raw(Raw::I32)),
        Dtype::I64 => Some(Elements::Raw(Raw::I64)),
        _ => None,
    }
}

fn in_words(fault: &SafeTensorError) -> String {
    match fault {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            "is truncated, or not a safetensors file: its header does not fit into it".into()
        }
        SafeTensorError::HeaderTooLarge => "is not a safetensors file: its header would exceed 100 MB".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "is truncated, or has bytes too many: its tensors do not end where the file does".into()
        }
        other => format!("has a corrupt header: {other}"),
    }
}

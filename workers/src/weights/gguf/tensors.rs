//! A GGUF file's table of tensors, each entry checked against the file.

use std::path::Path;

use kernels::DType;

use super::{Cursor, Elements, LoadError, Metadata, TensorInfo, TensorTable};

/// The most tensors a file may have; a model of 126 layers has a thousand.
const TENSORS_MAX: u64 = 1 << 16;
/// Where `general.alignment` is silent.
const ALIGNMENT_BYTES: u64 = 32;

/// The types that are not read, by the format's numbers, so that a message can name them.
const NOT_READ: [(u32, &str); 15] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (40, "NVFP4"),
];

/// Reads `count` entries; what the cursor then stands at, aligned, is the tensors' bytes.
pub(super) fn read(
    path: &Path,
    cursor: &mut Cursor,
    count: u64,
    metadata: &Metadata,
) -> Result<TensorTable, LoadError> {
    if count > TENSORS_MAX {
        return Err(LoadError::corrupt(path, format!("is corrupt: {count} tensors, at most {TENSORS_MAX} are read")));
    }
    let mut table = TensorTable::new();
    for _ in 0..count {
        let (name, tensor) = entry(path, cursor)?;
        if table.contains_key(name) {
            return Err(LoadError::tensor(path, name, "comes twice"));
        }
        table.insert(name.into(), tensor);
    }
    let alignment = alignment(metadata).map_err(|fault| LoadError::corrupt(path, fault))?;
    let data = cursor.position().next_multiple_of(alignment);
    let file_bytes = cursor.position() + cursor.remaining();
    for (name, tensor) in &mut table {
        place(tensor, data, alignment, file_bytes).map_err(|fault| LoadError::tensor(path, name, fault))?;
    }
    Ok(table)
}

fn alignment(metadata: &Metadata) -> Result<usize, String> {
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT_BYTES,
        Some(_) => metadata.unsigned("general.alignment").unwrap_or(0),
    };
    let sound = alignment.is_power_of_two() && alignment <= 1 << 20;
    sound.then_some(alignment as usize).ok_or("is corrupt: general.alignment must be a power of two up to 1 MiB".into())
}

/// One entry. Its offset counts from the beginning of the tensors' bytes, which is not known yet.
fn entry<'a>(path: &Path, cursor: &mut Cursor<'a>) -> Result<(&'a str, TensorInfo), LoadError> {
    let corrupt = |fault: String| LoadError::corrupt(path, fault);
    let name = cursor.string().map_err(corrupt)?;
    let dimensions = cursor.u32().map_err(corrupt)?;
    if !(1..=4).contains(&dimensions) {
        return Err(LoadError::tensor(path, name, format!("has {dimensions} dimensions, 1 to 4 are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(usize::try_from(cursor.u64().map_err(corrupt)?).unwrap_or(usize::MAX));
    }
    // The file writes the fastest dimension first.
    shape.reverse();
    let dtype = dtype(cursor.u32().map_err(corrupt)?).map_err(|fault| LoadError::tensor(path, name, fault))?;
    let offset = usize::try_from(cursor.u64().map_err(corrupt)?).unwrap_or(usize::MAX);
    Ok((name, TensorInfo { elements: Elements::Weights(dtype), shape, offset }))
}

/// Makes the offset count from the beginning of the file, and checks that the bytes are there.
fn place(tensor: &mut TensorInfo, data: usize, alignment: usize, file_bytes: usize) -> Result<(), String> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(format!("its offset {} is not a multiple of {alignment}", tensor.offset));
    }
    let bytes = tensor
        .bytes()
        .ok_or_else(|| format!("its shape {:?} does not suit {}", tensor.shape, tensor.elements.name()))?;
    let begin = data.checked_add(tensor.offset);
    let end = begin.and_then(|begin| begin.checked_add(bytes)).filter(|end| *end <= file_bytes);
    match (begin, end) {
        (Some(begin), Some(_)) => tensor.offset = begin,
        _ => return Err("its bytes lie beyond the end of the file: the file is truncated or corrupt".into()),
    }
    Ok(())
}

fn dtype(number: u32) -> Result<DType, String> {
    Ok(match number {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        10 => DType::Q2_K,
        11 => DType::Q3_K,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        20 => DType::IQ4_NL,
        23 => DType::IQ4_XS,
        30 => DType::BF16,
        34 => DType::TQ1_0,
        35 => DType::TQ2_0,
        39 => DType::MXFP4,
        other => {
            let name = NOT_READ.iter().find(|(number, _)| *number == other).map_or("unknown", |(_, name)| name);
            return Err(format!(
                "its type {name} (number {other}) is not read; F32, F16, BF16, all Qn and Qn_K but Q8_1 and Q8_K, IQ4, TQ and MXFP4 are"
            ));
        }
    })
}

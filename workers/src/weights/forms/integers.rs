//! Integers as compressed-tensors writes them: signed bytes, or packed into 32-bit words from the lowest bits on, then
//! with half of their range added so that none is negative. Layout: `compressed_tensors/compressors/pack_quantized`.

use super::{Coding, Grid, Groups, Numbers, RowMajor, Tensors, Words, Zeros};
use crate::weights::{FileTensor, LoadError, Raw, encoding::Compressed};

/// The matrix whose integers are the bytes `weight [outputs, inputs]`.
pub(super) fn bytes(tensors: &Tensors, weight: FileTensor, said: Compressed) -> Result<RowMajor, LoadError> {
    let shape = weight.flat();
    let (grid, groups) = scales(tensors, shape, said)?;
    let zeros = zeros(tensors, 8, &grid, said)?;
    Ok(RowMajor { codes: weight, coding: Coding::Signed, shape, row_bytes: shape.1, grid, groups, zeros })
}

/// The matrix of `columns` inputs whose integers are in the words `packed [outputs, inputs × bits ÷ 32]`.
pub(super) fn packed(
    tensors: &Tensors,
    packed: FileTensor,
    columns: usize,
    said: Compressed,
) -> Result<RowMajor, LoadError> {
    let words = Words::of(packed)?;
    let is_packed = |bits: &usize| (columns * bits).div_ceil(32) == words.columns;
    let Some(bits) = [4, 8].into_iter().find(is_packed) else {
        return Err(not_packed(&words, columns));
    };
    let shape = (words.rows, columns);
    if let Some(tensor) = tensors.own("_shape")? {
        let own = tensor.integers(Raw::I64)?;
        if own[..] != [shape.0 as i64, shape.1 as i64] {
            return Err(tensor.fault(format!("says {own:?}, the model's settings ask for {columns} columns")));
        }
    }
    let (grid, groups) = scales(tensors, shape, said)?;
    let groups = match tensors.own("_g_idx")? {
        Some(g_idx) => groups.in_order(&g_idx, columns, grid.shape().1)?,
        None => groups,
    };
    let zeros = zeros(tensors, bits, &grid, said)?;
    let coding = if bits == 4 { Coding::Nibbles } else { Coding::Bytes };
    Ok(RowMajor { row_bytes: words.columns * 4, codes: words.tensor, coding, shape, grid, groups, zeros })
}

fn not_packed(words: &Words, columns: usize) -> LoadError {
    let fault = format!("has {} words a row, which for {columns} columns are not 4 or 8 bits each", words.columns);
    words.tensor.fault(fault)
}

fn scales(tensors: &Tensors, shape: (usize, usize), said: Compressed) -> Result<(Grid, Groups), LoadError> {
    Grid::of(Numbers::of(tensors.required("_scale")?)?, shape, said.tile)
}

/// Without a tensor of them, zero points are in the middle of the range, unless the settings want one.
fn zeros(tensors: &Tensors, bits: usize, grid: &Grid, said: Compressed) -> Result<Zeros, LoadError> {
    let middle = 1 << (bits - 1);
    match tensors.own("_zero_point")? {
        None if said.symmetric => Ok(Zeros::Same(middle)),
        _ => Zeros::of(tensors.required("_zero_point")?, bits, middle, grid),
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::Dtype;
    use half::bf16;
    use kernels::DType;
    use serde_json::{Value, json};

    use super::super::samples::{Sample, check, grid, ints, packed, scale};

    const ROWS: usize = 20;
    const COLUMNS: usize = 256;

    fn quant(bits: usize, row: usize, column: usize) -> i32 {
        ((row * 7 + column * 5 + column / 9) % (1 << bits)) as i32 - (1 << (bits - 1))
    }

    fn zero(bits: usize, row: usize, group: usize) -> i32 {
        ((row * 3 + group) % (1 << bits)) as i32 - (1 << (bits - 1))
    }

    /// Without zero points.
    fn sample(bits: usize, groups: usize) -> Sample {
        let half = 1 << (bits - 1);
        let codes = grid(ROWS, COLUMNS, |row, column| (quant(bits, row, column) + half) as u32);
        let scales = grid(ROWS, groups, |row, group| bf16::from_f32(scale(row, group)).to_le_bytes()).concat();
        Sample::new()
            .with("a.weight_packed", Dtype::I32, &[ROWS, COLUMNS * bits / 32], packed(bits, codes))
            .with("a.weight_scale", Dtype::BF16, &[ROWS, groups], scales)
            .with("a.weight_shape", Dtype::I64, &[2], [ROWS, COLUMNS].map(|n| (n as i64).to_le_bytes()).concat())
    }

    /// Packed along the rows, which are filled up to whole words.
    fn zeros(bits: usize, groups: usize) -> (usize, Vec<u8>) {
        let (half, words) = (1 << (bits - 1), (ROWS * bits).div_ceil(32));
        let of_row = |row: usize, group| if row < ROWS { (zero(bits, row, group) + half) as u32 } else { 0 };
        let word =
            |word: usize, group| packed(bits, (word * 32 / bits..(word + 1) * 32 / bits).map(|row| of_row(row, group)));
        (words, grid(words, groups, word).concat())
    }

    #[test]
    fn packed_integers_become_blocks() {
        for (bits, groups, format) in [
            (4, 2, DType::WInt4),
            (4, 1, DType::WInt4),
            (4, 8, DType::WInt4G32),
            (8, 1, DType::WInt8),
            (8, 4, DType::Q8_0),
        ] {
            let group = COLUMNS / groups;
            let matrix = sample(bits, groups).matrix("a.weight", COLUMNS, Value::Null).unwrap();
            check(&matrix, format, |row, c| scale(row, c / group) * quant(bits, row, c) as f32);
            let (words, zeros) = zeros(bits, groups);
            let sample = sample(bits, groups).with("a.weight_zero_point", Dtype::I32, &[words, groups], zeros);
            let matrix = sample.matrix("a.weight", COLUMNS, Value::Null).unwrap();
            let format = if bits == 4 { format } else { DType::F32 };
            let difference = |row, c| quant(bits, row, c) - zero(bits, row, c / group);
            check(&matrix, format, |row, c| scale(row, c / group) * difference(row, c) as f32);
        }
    }

    #[test]
    fn bytes_with_and_without_zero_points() {
        let scales = grid(ROWS, 1, |row, group| bf16::from_f32(scale(row, group)).to_le_bytes()).concat();
        let sample = Sample::new()
            .with("a.weight", Dtype::I8, &[ROWS, COLUMNS], grid(ROWS, COLUMNS, |row, c| quant(8, row, c) as u8))
            .with("a.weight_scale", Dtype::BF16, &[ROWS, 1], scales);
        let matrix = sample.matrix("a.weight", COLUMNS, Value::Null).unwrap();
        check(&matrix, DType::WInt8, |row, c| scale(row, 0) * quant(8, row, c) as f32);
        let zeros = grid(ROWS, 1, |row, _| (row % 5) as u8);
        let sample = sample.with("a.weight_zero_point", Dtype::I8, &[ROWS], zeros);
        let matrix = sample.matrix("a.weight", COLUMNS, Value::Null).unwrap();
        check(&matrix, DType::F32, |row, c| scale(row, 0) * (quant(8, row, c) - (row % 5) as i32) as f32);
    }

    #[test]
    fn groups_may_lie_apart() {
        let group = |column: usize| column * 13 % 4;
        let apart = ints((0..COLUMNS).map(|column| group(column) as i32));
        let matrix = sample(4, 4).with("a.weight_g_idx", Dtype::I32, &[COLUMNS], apart);
        let matrix = matrix.matrix("a.weight", COLUMNS, Value::Null).unwrap();
        check(&matrix, DType::BF16, |row, c| scale(row, group(c)) * quant(4, row, c) as f32);
        let unsaid = sample(4, 4).with("a.weight_g_idx", Dtype::I32, &[COLUMNS], ints([-1; COLUMNS]));
        assert_eq!(unsaid.matrix("a.weight", COLUMNS, Value::Null).unwrap().dtype(), DType::WInt4G32);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |sample: Sample, columns, expected: &str| {
            let line = sample.fault("a.weight", columns, Value::Null);
            assert!(line.contains(expected), "{line}");
        };
        of(sample(4, 2).without("a.weight_scale"), COLUMNS, "tensor a.weight_scale: is missing");
        let three = "a.weight_packed: has 24 words a row, which for 256 columns are not 4 or 8 bits each";
        of(sample(4, 2).with("a.weight_packed", Dtype::I32, &[ROWS, 24], vec![0; ROWS * 96]), COLUMNS, three);
        of(sample(4, 2), 255, "a.weight_shape: says [20, 256], the model's settings ask for 255 columns");
        let scales = sample(4, 2).with("a.weight_scale", Dtype::BF16, &[ROWS, 3], vec![0; ROWS * 6]);
        of(scales, COLUMNS, "a.weight_scale: has shape 20 × 3, which does not divide a matrix of 20 × 256");
        let weights = json!({"num_bits": 4, "symmetric": false});
        let settings = json!({"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": weights}}});
        let line = sample(4, 2).fault("a.weight", COLUMNS, settings);
        assert!(line.contains("tensor a.weight_zero_point: is missing"), "{line}");
        let zeros = sample(4, 2).with("a.weight_zero_point", Dtype::I32, &[2, 2], vec![0; 16]);
        of(zeros, COLUMNS, "a.weight_zero_point: has shape 2 × 2, its scales have 20 × 2");
    }
}

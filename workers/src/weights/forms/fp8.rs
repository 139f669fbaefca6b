//! FP8 (e4m3fn) with scales beside it, as DeepSeek publishes models (one for each 128 × 128 weights, `weight_scale_inv`,
//! which is multiplied with whatever its name says) and as others do (one for a tensor or for each output, `weight_scale`).
//! Scales of activations are not read.

use super::{Coding, Grid, Numbers, RowMajor, Tensors, Zeros};
use crate::weights::{FileTensor, LoadError, encoding::Tile};

/// The matrix whose codes are `weight [outputs, inputs]`.
pub(super) fn form(tensors: &Tensors, weight: FileTensor, said: Tile) -> Result<RowMajor, LoadError> {
    let scales = match tensors.own("_scale_inv")? {
        Some(scales) => scales,
        None => tensors.required("_scale")?,
    };
    let shape = weight.flat();
    let (grid, groups) = Grid::of(Numbers::of(scales)?, shape, said)?;
    let zeros = Zeros::Same(0);
    Ok(RowMajor { codes: weight, coding: Coding::E4M3, shape, row_bytes: shape.1, grid, groups, zeros })
}

#[cfg(test)]
mod tests {
    use ::safetensors::Dtype;
    use kernels::{DType, matmul::decode_e4m3};
    use serde_json::{Value, json};

    use super::super::samples::{Sample, check, floats, grid, scale};

    const ROWS: usize = 40;
    const COLUMNS: usize = 320;

    fn code(row: usize, column: usize) -> u8 {
        let code = (row * 31 + column * 7) as u8;
        if code & 0x7f == 0x7f { 0 } else { code }
    }

    /// FP8 codes with scales `[down, across]`.
    fn sample(field: &str, shape: &[usize], scale: impl Fn(usize, usize) -> f32) -> Sample {
        let across = if shape.len() == 2 { shape[1] } else { 1 };
        let down = shape.first().copied().unwrap_or(1);
        Sample::new().with("a.weight", Dtype::F8_E4M3, &[ROWS, COLUMNS], grid(ROWS, COLUMNS, code)).with(
            field,
            Dtype::F32,
            shape,
            floats(grid(down, across, scale)),
        )
    }

    fn settings(block: Value) -> Value {
        json!({"quant_method": "fp8", "weight_block_size": block})
    }

    /// No number of whole blocks of 128 is 320 columns: the whole is values, parts of it are blocks.
    #[test]
    fn scales_of_blocks_rows_and_all() {
        let odd = |down, across| 0.1 + scale(down, across);
        let blocks = sample("a.weight_scale_inv", &[2, 3], odd);
        let matrix = blocks.matrix("a.weight", COLUMNS, settings(json!([32, 128]))).unwrap();
        check(&matrix, DType::F32, |row, c| odd(row / 32, c / 128) * decode_e4m3(code(row, c)));
        let part = matrix.column_range(128..256);
        assert_eq!((part.dtype(), part.read().unwrap().dtype()), (DType::F8_E4M3, DType::F8_E4M3));
        check(&part, DType::F8_E4M3, |row, c| odd(row / 32, 1) * decode_e4m3(code(row, 128 + c)));
        for shape in [&[ROWS, 1][..], &[ROWS]] {
            let matrix =
                sample("a.weight_scale", shape, odd).matrix("a.weight", COLUMNS, settings(Value::Null)).unwrap();
            check(&matrix, DType::F32, |row, c| odd(row, 0) * decode_e4m3(code(row, c)));
            assert_eq!(matrix.column_range(1..129).dtype(), DType::F8_E4M3);
        }
        for shape in [&[][..], &[1]] {
            let matrix = sample("a.weight_scale", shape, odd).matrix("a.weight", COLUMNS, Value::Null).unwrap();
            check(&matrix, DType::F32, |row, c| odd(0, 0) * decode_e4m3(code(row, c)));
        }
    }

    #[test]
    fn scales_may_be_exponents() {
        let sample = sample("a.weight_scale_inv", &[1, 1], scale);
        let sample = sample.with(
            "a.weight_scale_inv",
            Dtype::F8_E8M0,
            &[ROWS, 10],
            grid(ROWS, 10, |row, g| (120 + row % 9 + g) as u8),
        );
        let matrix = sample.matrix("a.weight", COLUMNS, settings(json!([1, 32]))).unwrap();
        let scale = |row: usize, group: usize| ((row % 9 + group) as f32 - 7.0).exp2();
        check(&matrix, DType::BF16, |row, c| scale(row, c / 32) * decode_e4m3(code(row, c)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |sample: Sample, expected: &str| {
            let line = sample.fault("a.weight", COLUMNS, settings(json!([32, 128])));
            assert!(line.contains(expected), "{line}");
        };
        let whole = || sample("a.weight_scale_inv", &[2, 3], scale);
        of(whole().without("a.weight_scale_inv"), "tensor a.weight_scale: is missing");
        let shape = "a.weight_scale_inv: has shape 3 × 3, which does not divide a matrix of 40 × 320";
        of(sample("a.weight_scale_inv", &[3, 3], scale), shape);
        let mut codes = grid(ROWS, COLUMNS, code);
        codes[33 * COLUMNS + 200] = 0xff;
        let nan = "a.weight: holds the code for not-a-number in row 33";
        of(whole().with("a.weight", Dtype::F8_E4M3, &[ROWS, COLUMNS], codes), nan);
        of(sample("a.weight_scale_inv", &[2, 3], |_, _| f32::NAN), "has a scale that is no number in row 0");
        let words = whole().with("a.weight_scale_inv", Dtype::I32, &[2, 3], vec![0; 24]);
        of(words, "a.weight_scale_inv: holds Raw(I32), which are no scales");
    }
}

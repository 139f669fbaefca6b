//! FP4 (e2m1) in blocks of 32 that share a power of two (e8m0), as GPT-OSS is published: two to a byte, the low half
//! first. ggml's blocks of the same numbers have a block's first half in the low halves of its bytes.
//! Format: OCP Microscaling Formats (MX) Specification 1.0; the packing is that of `openai/gpt-oss`'s weights.

use super::{Coding, Grid, Numbers, RowMajor, Zeros};
use crate::weights::{Elements, FileTensor, LoadError, Raw};

/// Weights that share a scale.
const BLOCK: usize = 32;

/// The matrix whose numbers are `blocks [outputs, inputs ÷ 32, 16]`, or the same with the last two in one, and whose
/// scales' exponents are `scales [outputs, inputs ÷ 32]`.
pub(super) fn form(blocks: FileTensor, scales: FileTensor) -> Result<RowMajor, LoadError> {
    for tensor in [&blocks, &scales] {
        if tensor.info.elements != Elements::Raw(Raw::U8) {
            return Err(tensor.fault(format!("holds {}, where bytes would be", tensor.info.elements.name())));
        }
    }
    let (rows, row_bytes) = match blocks.info.shape[..] {
        [rows, blocks, 16] => (rows, blocks * 16),
        [rows, row_bytes] => (rows, row_bytes),
        _ => return Err(blocks.fault(format!("has shape {:?}, which are no rows of blocks", blocks.info.shape))),
    };
    let shape = (rows, row_bytes * 2);
    let numbers = Numbers::of(scales)?;
    if numbers.shape() != (rows, row_bytes * 2 / BLOCK) || !row_bytes.is_multiple_of(BLOCK / 2) {
        let (found, across) = numbers.shape();
        let fault = format!("has shape {found} × {across}, {rows} rows of {row_bytes} bytes have other blocks");
        return Err(numbers.tensor.fault(fault));
    }
    let (grid, groups) = Grid::of(numbers, shape, Some((1, BLOCK)))?;
    Ok(RowMajor { codes: blocks, coding: Coding::E2M1, shape, row_bytes, grid, groups, zeros: Zeros::Same(0) })
}

#[cfg(test)]
mod tests {
    use ::safetensors::Dtype;
    use kernels::DType;
    use serde_json::{Value, json};

    use super::super::samples::{Sample, check, grid, packed};

    const EXPERTS: usize = 3;
    const ROWS: usize = 6;
    const COLUMNS: usize = 96;

    const NUMBERS: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

    fn code(row: usize, column: usize) -> u32 {
        ((row * 7 + column * 5 + column / 9) % 16) as u32
    }

    fn exponent(row: usize, group: usize) -> u8 {
        [127, 0, 1, 120, 133][(row + group) % 5]
    }

    fn value(row: usize, column: usize) -> f32 {
        (f64::from(exponent(row, column / 32)) - 127.0).exp2() as f32 * NUMBERS[code(row, column) as usize]
    }

    /// The rows of all experts follow each other.
    fn sample() -> Sample {
        let groups = COLUMNS / 32;
        Sample::new()
            .with(
                "e.up_blocks",
                Dtype::U8,
                &[EXPERTS, ROWS, groups, 16],
                packed(4, grid(EXPERTS * ROWS, COLUMNS, code)),
            )
            .with("e.up_scales", Dtype::U8, &[EXPERTS, ROWS, groups], grid(EXPERTS * ROWS, groups, exponent))
    }

    fn settings() -> Value {
        json!({"quant_method": "mxfp4"})
    }

    #[test]
    fn blocks_of_each_expert_become_ggmls() {
        for expert in 0..EXPERTS {
            let matrix = sample().expert(expert).matrix("e.up", COLUMNS, settings()).unwrap();
            assert_eq!((matrix.rows(), matrix.columns()), (ROWS, COLUMNS));
            check(&matrix, DType::MXFP4, |row, column| value(expert * ROWS + row, column));
        }
    }

    #[test]
    fn two_dimensions_of_bytes_are_the_same() {
        let sample = Sample::new()
            .with("a.weight_packed", Dtype::U8, &[ROWS, COLUMNS / 2], packed(4, grid(ROWS, COLUMNS, code)))
            .with("a.weight_scale", Dtype::U8, &[ROWS, COLUMNS / 32], grid(ROWS, COLUMNS / 32, exponent));
        check(&sample.matrix("a.weight", COLUMNS, Value::Null).unwrap(), DType::MXFP4, value);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let of = |sample: Sample, expected: &str| {
            let line = sample.fault("e.up", COLUMNS, settings());
            assert!(line.contains(expected), "{line}");
        };
        of(sample().without("e.up_scales").expert(0), "tensor e.up_scales: is missing");
        of(sample().expert(3), "e.up_blocks: has no matrix number 3: its shape is [3, 6, 3, 16]");
        let scales = sample().with("e.up_scales", Dtype::U8, &[EXPERTS, ROWS, 2], vec![0; EXPERTS * ROWS * 2]);
        of(scales.expert(0), "e.up_scales: has shape 6 × 2, 6 rows of 48 bytes have other blocks");
        let nan = sample().with("e.up_scales", Dtype::U8, &[EXPERTS, ROWS, 3], vec![255; EXPERTS * ROWS * 3]);
        of(nan.expert(1), "e.up_blocks: has a scale that is no number in row 0");
    }
}

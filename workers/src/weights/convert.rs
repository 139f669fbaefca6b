//! Matrices on their way into another storage format: quantizing at load.

use kernels::{
    DType, Matrix,
    matmul::{dequantize, f8_scale, quantize, quantize_f8},
};

use super::{LoadError, Stored, stored::owned};

/// Rows that are converted together; those of FP8 share their scales.
const ROWS: usize = 128;

/// Weights that share a scale along a row, in FP8.
const F8_COLUMNS: usize = 128;

/// The first of `formats` that the columns allow; none for what is quantized already, or has that format.
pub(crate) fn target(stored: &Stored, formats: &[DType]) -> Option<DType> {
    if stored.dtype().is_quantized() {
        return None;
    }
    formats.iter().copied().find(|format| stored.is_cut_at(format.block_elements())).filter(|to| *to != stored.dtype())
}

/// Reads `stored` as `to`, on so many threads.
pub(crate) fn convert(stored: &Stored, to: DType, threads: usize) -> Result<Matrix, LoadError> {
    let (rows, columns) = (stored.rows(), stored.columns());
    let chunk = rows.div_ceil(threads.max(1)).next_multiple_of(ROWS).max(ROWS);
    let convert_rows = |first: usize| convert_run(stored, first..rows.min(first + chunk), to);
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..rows).step_by(chunk).map(|first| scope.spawn(move || convert_rows(first))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, LoadError>>()
    })?;
    Ok(owned(parts.concat(), to, rows, columns))
}

fn convert_run(stored: &Stored, rows: std::ops::Range<usize>, to: DType) -> Result<Vec<u8>, LoadError> {
    let columns = stored.columns();
    let mut bytes = Vec::with_capacity(to.bytes_of(rows.len() * columns));
    let mut values = vec![0.0; ROWS * columns];
    for first in rows.clone().step_by(ROWS) {
        let matrix = stored.row_range(first..rows.end.min(first + ROWS)).read()?;
        let values = &mut values[..matrix.rows() * columns];
        for (row, values) in values.chunks_exact_mut(columns).enumerate() {
            dequantize(matrix.dtype(), matrix.row(row), values);
        }
        match to {
            DType::F8_E4M3 => to_f8(values, columns, &mut bytes),
            _ => values.chunks_exact(columns).for_each(|row| quantize(to, row, &mut bytes)),
        }
    }
    Ok(bytes)
}

/// Rows that share scales: one for every [`F8_COLUMNS`] of their columns.
fn to_f8(values: &[f32], columns: usize, bytes: &mut Vec<u8>) {
    let block = |row: usize, at: usize| &values[row * columns + at..][..F8_COLUMNS];
    let rows = values.len() / columns;
    let scale = |at: usize| (0..rows).map(|row| f8_scale(block(row, at))).fold(0.0, f32::max);
    let scales: Vec<f32> = (0..columns).step_by(F8_COLUMNS).map(scale).collect();
    for row in 0..rows {
        for (at, scale) in (0..columns).step_by(F8_COLUMNS).zip(&scales) {
            quantize_f8(*scale, block(row, at), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::stored::tests::{in_memory, values};

    #[test]
    fn every_format_keeps_the_values_within_its_step() {
        let original: Vec<f32> = (0..300 * 256).map(|i| ((i * 37 % 1009) as f32 / 504.5 - 1.0) * 0.1).collect();
        let stored = in_memory(&original, 300, 256);
        for (to, step) in [
            (DType::WInt8, 0.1 / 127.0),
            (DType::Q8_0, 0.1 / 127.0),
            (DType::WInt4, 0.2 / 15.0),
            (DType::F8_E4M3, 0.1 / 16.0),
            (DType::BF16, 0.1 / 256.0),
        ] {
            let one = convert(&stored, to, 1).unwrap();
            for (found, expected) in values(&one).iter().zip(&original) {
                assert!((found - expected).abs() <= step, "{to:?}: {found} for {expected}");
            }
            let many = convert(&stored, to, 3).unwrap();
            assert!((0..300).all(|row| many.row(row) == one.row(row)), "{to:?}: threads change nothing");
        }
    }

    #[test]
    fn the_format_is_the_first_that_fits() {
        let stored = in_memory(&vec![0.0; 4 * 160], 4, 160);
        let four = [DType::WInt4, DType::WInt4G32, DType::BF16];
        assert_eq!(target(&stored.column_range(0..128), &four), Some(DType::WInt4));
        assert_eq!(target(&stored, &four), Some(DType::WInt4G32));
        assert_eq!(target(&stored.column_range(0..40), &four), Some(DType::BF16));
        assert_eq!(target(&stored, &[DType::F32]), None);
        assert_eq!(target(&stored, &[]), None);
    }
}

//! Quantized weights as kernels read them: in blocks with the same values, or else as those values.

use std::ops::Range;

use half::bf16;
use kernels::{DType, Matrix};

use super::{Form, Quants, Scale};
use crate::weights::{LoadError, stored::owned};

/// Rows that are read side by side: where a file has a row's codes far apart, the next rows' lie beside them.
const ROWS_TOGETHER: usize = 64;

/// Weights that are repacked when they are read.
pub(crate) struct Repacked<Q> {
    quants: Q,
}

impl<Q: Quants> Repacked<Q> {
    pub(super) fn of(quants: Q) -> Self {
        Self { quants }
    }

    /// Formats whose blocks some columns are made of, the smallest first.
    fn formats(&self, columns: &Range<usize>) -> impl Iterator<Item = DType> {
        let total = self.quants.shape().1;
        let formats = self.quants.kind().formats().iter().copied();
        formats.filter(move |dtype| self.quants.groups().hold(dtype.block_elements(), columns, total))
    }

    /// `None` if the format can't hold one of the blocks.
    fn blocks(&self, dtype: DType, rows: &Range<usize>, columns: &Range<usize>) -> Result<Option<Matrix>, LoadError> {
        let (length, size) = (dtype.block_elements(), dtype.block_bytes());
        let stride = dtype.bytes_of(columns.len());
        let mut bytes = vec![0; rows.len() * stride];
        let (mut codes, mut block) = (vec![0; length], Vec::with_capacity(size));
        for together in rows.clone().step_by(ROWS_TOGETHER) {
            for (index, column) in columns.clone().step_by(length).enumerate() {
                for row in together..rows.end.min(together + ROWS_TOGETHER) {
                    self.codes(row, column, &mut codes)?;
                    let scale = self.scale(row, self.quants.groups().of(column))?;
                    block.clear();
                    if scale.store(dtype, &codes, &mut block).is_none() {
                        return Ok(None);
                    }
                    bytes[(row - rows.start) * stride + index * size..][..size].copy_from_slice(&block);
                }
            }
        }
        Ok(Some(owned(bytes, dtype, rows.len(), columns.len())))
    }

    fn values(&self, rows: &Range<usize>, columns: &Range<usize>) -> Result<Matrix, LoadError> {
        let (kind, groups) = (self.quants.kind(), self.quants.groups());
        let group_of: Vec<usize> = columns.clone().map(|column| groups.of(column)).collect();
        let span = group_of.iter().min().map_or(0, |first| *first)..group_of.iter().max().map_or(0, |last| last + 1);
        let (mut codes, mut scales) = (vec![0; columns.len()], Vec::with_capacity(span.len()));
        let mut values = Vec::with_capacity(rows.len() * columns.len());
        for row in rows.clone() {
            self.codes(row, columns.start, &mut codes)?;
            scales.clear();
            for group in span.clone() {
                scales.push(self.scale(row, group)?);
            }
            values
                .extend(codes.iter().zip(&group_of).map(|(&code, group)| kind.value(code, scales[group - span.start])));
        }
        Ok(smallest(&values, rows.len(), columns.len()))
    }

    fn codes(&self, row: usize, first: usize, to: &mut [u8]) -> Result<(), LoadError> {
        self.quants.codes(row, first, to);
        match self.quants.kind().any_nan(to) {
            true => Err(self.fault("holds the code for not-a-number", row)),
            false => Ok(()),
        }
    }

    fn scale(&self, row: usize, group: usize) -> Result<Scale, LoadError> {
        let scale = self.quants.scale(row, group);
        if scale.scale.is_finite() { Ok(scale) } else { Err(self.fault("has a scale that is no number", row)) }
    }

    fn fault(&self, what: &str, row: usize) -> LoadError {
        self.quants.tensors()[0].fault(format!("{what} in row {row}"))
    }
}

impl<Q: Quants> Form for Repacked<Q> {
    fn shape(&self) -> (usize, usize) {
        self.quants.shape()
    }

    fn dtype(&self) -> DType {
        self.dtype_of(&(0..self.quants.shape().1))
    }

    fn dtype_of(&self, columns: &Range<usize>) -> DType {
        self.formats(columns).next().unwrap_or(DType::F32)
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        let mut matrix = None;
        for dtype in self.formats(&columns) {
            matrix = self.blocks(dtype, &rows, &columns)?;
            if matrix.is_some() {
                break;
            }
        }
        matrix.map_or_else(|| self.values(&rows, &columns), Ok)
    }

    fn forget(&self) {
        self.quants.tensors().into_iter().for_each(|tensor| tensor.forget());
    }
}

/// In bfloat16 if that holds every value.
fn smallest(values: &[f32], rows: usize, columns: usize) -> Matrix {
    if values.iter().any(|value| value.to_bits() & 0xffff != 0) {
        return Matrix::from_f32(values, rows, columns);
    }
    let bytes = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    owned(bytes, DType::BF16, rows, columns)
}

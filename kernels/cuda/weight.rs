//! Weights, as their formats store them.

use super::driver::{Driver, Pointer};
use super::region::Region;
use crate::{DType, Matrix, Result};

/// A weight `[outputs, inputs]`: stored matrices in one region, the outputs of one after those of the other, each as its
/// format stores it.
pub struct Weight {
    parts: Vec<Part>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Where the parts lie.
    _region: Region,
}

/// Neighbouring stored matrices of one format, as one: the outputs that one launch can compute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) rows: usize,
    pub(crate) dtype: DType,
    /// Bytes from one row to the next, a multiple of 16.
    pub(crate) stride: usize,
    /// A multiple of 256.
    pointer: Pointer,
}

impl Part {
    /// Rows begin where the widest load can read.
    const ROW_ALIGNMENT: usize = 16;

    /// Parts begin where a line of the cache does.
    const ALIGNMENT: usize = 256;

    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }

    fn bytes(&self) -> usize {
        (self.rows * self.stride).next_multiple_of(Self::ALIGNMENT)
    }

    fn stride_of(matrix: &Matrix) -> usize {
        matrix.dtype().bytes_of(matrix.columns()).next_multiple_of(Self::ROW_ALIGNMENT)
    }

    /// Copies matrices of one format and width to a place that has room for all their rows.
    fn fill(driver: &Driver, to: Pointer, matrices: &[Matrix]) -> Result<Self> {
        /// Bytes that are copied at once.
        const CHUNK: usize = 16 << 20;
        let (dtype, stride) = (matrices[0].dtype(), Self::stride_of(&matrices[0]));
        let (mut rows, mut staged) = (0, Vec::new());
        let copy_in = |rows: usize, staged: &mut Vec<u8>| {
            // SAFETY: these are the last of `rows` rows, for which there is room.
            unsafe { driver.copy_in(to.offset(rows * stride - staged.len()), staged) }?;
            staged.clear();
            Ok(())
        };
        for (matrix, row) in matrices.iter().flat_map(|matrix| (0..matrix.rows()).map(move |row| (matrix, row))) {
            staged.extend_from_slice(matrix.row(row));
            staged.resize(staged.len().next_multiple_of(Self::ROW_ALIGNMENT), 0);
            rows += 1;
            if staged.len() >= CHUNK {
                copy_in(rows, &mut staged)?;
            }
        }
        if !staged.is_empty() {
            copy_in(rows, &mut staged)?;
        }
        Ok(Self { rows, dtype, stride, pointer: to })
    }
}

impl Weight {
    /// Takes copies of `matrices`; all have as many columns as the first.
    pub(crate) fn new(driver: &Driver, matrices: &[Matrix]) -> Result<Self> {
        let inputs = matrices.first().map_or(0, Matrix::columns);
        assert!(matrices.iter().all(|matrix| matrix.columns() == inputs), "the parts of a weight have the same inputs");
        let alike = |a: &Matrix, b: &Matrix| a.dtype() == b.dtype();
        let bytes_of = |run: &[Matrix]| {
            let rows: usize = run.iter().map(Matrix::rows).sum();
            (rows * Part::stride_of(&run[0])).next_multiple_of(Part::ALIGNMENT)
        };
        let region = Region::with(driver, matrices.chunk_by(alike).map(bytes_of).sum(), "weights", [])?;
        let mut next = region.pointer();
        let mut parts = Vec::new();
        for run in matrices.chunk_by(alike) {
            let part = Part::fill(driver, next, run)?;
            next = next.offset(part.bytes());
            parts.push(part);
        }
        Ok(Self { parts, outputs: matrices.iter().map(Matrix::rows).sum(), inputs, _region: region })
    }

    /// The stored matrices, each with its first output.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.rows;
            Some((first, part))
        })
    }
}

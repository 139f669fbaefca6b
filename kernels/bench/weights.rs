//! Weights that go round in more memory than caches hold.

use std::sync::Arc;

use super::caches::cold_bytes;
use crate::{DType, Matrix, samples::Samples};

/// Random weights of one format, of which matrices of any shape are views. Clones are the same memory.
#[derive(Clone)]
pub(super) struct Arena {
    pub(super) dtype: DType,
    bytes: Arc<Vec<u8>>,
}

/// Random bytes are made of so many, which then repeat: making them all would take longer than measuring.
const PATTERN_BYTES: usize = 256 << 10;

impl Arena {
    pub(super) fn new(dtype: DType) -> Self {
        let mut samples = Samples::new(1);
        let mut bytes = Vec::with_capacity(cold_bytes());
        while bytes.len() < PATTERN_BYTES {
            bytes.extend(samples.block(dtype));
        }
        let pattern = bytes.len();
        while bytes.len() + pattern <= cold_bytes() {
            bytes.extend_from_within(..pattern);
        }
        Self { dtype, bytes: Arc::new(bytes) }
    }

    /// As many matrices as the memory holds, none of which shares bytes with another; one at least.
    ///
    /// # Panics
    /// Where `inputs` are not whole blocks of the format, or one matrix is larger than the memory.
    pub(super) fn matrices(&self, outputs: usize, inputs: usize) -> Vec<Matrix> {
        let each = self.dtype.bytes_of(outputs * inputs);
        let matrix = |offset| Matrix::new(self.bytes.clone(), offset, self.dtype, outputs, inputs);
        let all = (0..self.bytes.len() / each).map(|index| matrix(index * each).expect("whole blocks"));
        let all: Vec<Matrix> = all.collect();
        assert!(!all.is_empty(), "{outputs} × {inputs} in {:?} is more than goes round", self.dtype);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_disjoint_and_fill_the_memory() {
        let arena = Arena::new(DType::Q4_1);
        let matrices = arena.matrices(1536, 576);
        let each = DType::Q4_1.bytes_of(1536 * 576);
        assert!(matrices.len() * each > arena.bytes.len() - each);
        let start = |matrix: &Matrix| matrix.row(0).as_ptr().addr();
        assert!(matrices.windows(2).all(|pair| start(&pair[1]) - start(&pair[0]) == each));
        assert_ne!(matrices[0].row(0), matrices[0].row(1));
    }
}

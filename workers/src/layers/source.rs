//! Where layers take their weights from: a checkpoint, for one shard and one device.

use std::{cell::Cell, collections::BTreeSet, ops::Range};

use kernels::{Matrix, matmul::dequantize, memory::Memory};

use super::Shard;
use crate::{
    models::ModelConfig,
    weights::{Checkpoint, LoadError},
};

/// A checkpoint on its way to a rank's device. Layers ask for whole tensors by name and shape, and keep their shard of
/// the views they get; a page of the file is read only where a kept view is.
pub(crate) struct Source<'a, M> {
    /// Where the weights go.
    pub device: &'a M,
    /// Whose weights are wanted.
    pub shard: Shard,
    checkpoint: &'a Checkpoint,
    purpose: Purpose,
    taken: BTreeSet<String>,
    weight_bytes: Cell<u64>,
}

/// What the weights are wanted for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purpose {
    /// To be computed with: this rank's bytes are read.
    Load,
    /// To be found there, in their shapes: no matrix is read.
    Check,
}

impl<'a, M: Memory> Source<'a, M> {
    /// The weights of `checkpoint` for `shard`, bound for `device`.
    pub(crate) fn new(device: &'a M, checkpoint: &'a Checkpoint, shard: Shard, purpose: Purpose) -> Self {
        Self { device, shard, checkpoint, purpose, taken: BTreeSet::new(), weight_bytes: Cell::new(0) }
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &'a ModelConfig {
        self.checkpoint.config()
    }

    /// The whole tensor `name`, `rows × columns`, as the file has it.
    pub(crate) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        self.taken.insert(self.checkpoint.own_name(name));
        self.checkpoint.tensor_of_shape(name, rows, columns)
    }

    /// The part `own` of the vector `name` of `length` elements, as f32.
    pub(crate) fn vector(&mut self, name: &str, length: usize, own: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let vector = self.matrix(name, 1, length)?;
        Ok(row_values(&vector, 0)[own].to_vec())
    }

    /// Columns `own` of every row: a view of the file, or, where the range cuts quantization blocks, the values themselves.
    pub(crate) fn columns(&self, matrix: &Matrix, own: Range<usize>) -> Matrix {
        match matrix.column_range(own.clone()) {
            Some(view) => view,
            None if self.purpose == Purpose::Check => matrix.clone(),
            None => column_values(matrix, own),
        }
    }

    /// Rows of several matrices as one weight on the device.
    pub(crate) fn weight(&self, parts: Vec<Matrix>) -> Result<M::Weight, LoadError> {
        if self.purpose == Purpose::Load {
            parts.iter().for_each(fetch);
        }
        let bytes: usize = parts.iter().map(Matrix::stored_bytes).sum();
        self.weight_bytes.set(self.weight_bytes.get() + bytes as u64);
        Ok(self.device.weight(parts)?)
    }

    /// Stored bytes of all weights so far.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.weight_bytes.get()
    }

    /// Values that go to the device as one row.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<M::Tensor, LoadError> {
        Ok(self.device.tensor(1, values.len(), values)?)
    }

    /// The tensors that layers asked for, by the file's own names.
    pub(crate) fn taken(&self) -> &BTreeSet<String> {
        &self.taken
    }
}

fn column_values(matrix: &Matrix, own: Range<usize>) -> Matrix {
    let mut values = Vec::with_capacity(matrix.rows() * own.len());
    for row in 0..matrix.rows() {
        values.extend_from_slice(&row_values(matrix, row)[own.clone()]);
    }
    Matrix::from_f32(&values, matrix.rows(), own.len())
}

/// Has the view's pages read from the file now, while loading is expected to take time, and not in the first step.
fn fetch(matrix: &Matrix) {
    /// No page is smaller.
    const PAGE_BYTES: usize = 4096;
    for row in 0..matrix.rows() {
        let bytes = matrix.row(row);
        let sum = bytes.iter().step_by(PAGE_BYTES).chain(bytes.last()).fold(0, |sum, byte| sum ^ byte);
        std::hint::black_box(sum);
    }
}

fn row_values(matrix: &Matrix, row: usize) -> Vec<f32> {
    let mut values = vec![0.0; matrix.columns()];
    dequantize(matrix.dtype(), matrix.row(row), &mut values);
    values
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernels::DType;

    use super::*;

    /// One Q8_0 row of two blocks: 0, 1, … 63 with scale 1.
    fn row() -> Matrix {
        let block = |first: u8| [0x00, 0x3c].into_iter().chain(first..first + 32);
        let bytes: Vec<u8> = block(0).chain(block(32)).collect();
        Matrix::new(Arc::new(bytes), 0, DType::Q8_0, 1, 64).unwrap()
    }

    #[test]
    fn columns_cut_within_blocks_keep_their_values() {
        for own in [32..64, 16..48, 0..63, 63..64] {
            let part = column_values(&row(), own.clone());
            let expected: Vec<f32> = own.map(|value| value as f32).collect();
            assert_eq!(row_values(&part, 0), expected);
        }
    }
}

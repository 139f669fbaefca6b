//! Where layers take their weights from: a checkpoint, for one shard and one device.

use std::{collections::BTreeSet, ops::Range};

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
    taken: BTreeSet<String>,
}

impl<'a, M: Memory> Source<'a, M> {
    /// The weights of `checkpoint` for `shard`, bound for `device`.
    pub(crate) fn new(device: &'a M, checkpoint: &'a Checkpoint, shard: Shard) -> Self {
        Self { device, shard, checkpoint, taken: BTreeSet::new() }
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

    /// Values that go to the device as one row.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<M::Tensor, LoadError> {
        Ok(self.device.tensor(1, values.len(), values)?)
    }

    /// The tensors that layers asked for, by the file's own names.
    pub(crate) fn taken(&self) -> &BTreeSet<String> {
        &self.taken
    }
}

/// Columns `own` of every row: a view of the file, or, where the range cuts quantization blocks, the values themselves.
pub(super) fn columns(matrix: &Matrix, own: Range<usize>) -> Matrix {
    matrix.column_range(own.clone()).unwrap_or_else(|| {
        let values: Vec<f32> =
            (0..matrix.rows()).flat_map(|row| row_values(matrix, row)[own.clone()].to_vec()).collect();
        Matrix::from_f32(&values, matrix.rows(), own.len())
    })
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
    fn a_cut_between_blocks_is_a_view_and_one_within_is_values() {
        let check = |own: Range<usize>, dtype: DType| {
            let part = columns(&row(), own.clone());
            assert_eq!(part.dtype(), dtype, "{own:?}");
            let expected: Vec<f32> = own.map(|value| value as f32).collect();
            assert_eq!(row_values(&part, 0), expected);
        };
        check(32..64, DType::Q8_0);
        check(16..48, DType::F32);
        check(0..63, DType::F32);
    }
}

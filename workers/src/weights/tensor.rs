//! The tensors of one file: where each lies, by name.

use std::collections::BTreeMap;

use kernels::{DType, Matrix};

use super::MappedFile;

/// One tensor of a file. Its reader has checked that the bytes are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Storage format.
    pub dtype: DType,
    /// Lengths, slowest first: `[outputs, inputs]` of a linear layer.
    pub shape: Vec<usize>,
    /// First byte within the file.
    pub offset: usize,
}

impl TensorInfo {
    /// Number of weights, if that is a number at all.
    pub(crate) fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length))
    }

    /// Number of bytes; `None` if the shape is absurd or a row is not a whole number of blocks.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let elements = self.elements()?;
        let block = self.dtype.block_elements();
        let whole_rows = self.shape.last().is_none_or(|columns| columns.is_multiple_of(block));
        whole_rows.then(|| (elements / block).checked_mul(self.dtype.block_bytes()))?
    }

    /// The tensor as a matrix, a vector as one row. `None` for more than two dimensions.
    pub(crate) fn matrix(&self, file: &MappedFile) -> Option<Matrix> {
        let (rows, columns) = match self.shape[..] {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => return None,
        };
        Matrix::new(file.shared(), self.offset, self.dtype, rows, columns)
    }
}

/// All tensors of a file, by the file's own names.
pub(crate) type TensorTable = BTreeMap<String, TensorInfo>;

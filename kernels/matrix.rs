//! A weight on the host: bytes that somebody else owns (a mapped file), seen as a matrix.

use std::sync::Arc;

use crate::DType;

/// Whoever owns the bytes of a [`Matrix`]: a mapped file, a vector.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A view `[rows, columns]` of stored weights, row-major with a stride, so that any tensor-parallel shard
/// (some rows, or some columns of every row) is a view of the file itself and nothing is copied.
#[derive(Clone)]
pub struct Matrix {
    owner: Bytes,
    offset: usize,
    row_stride: usize,
    rows: usize,
    columns: usize,
    dtype: DType,
}

impl Matrix {
    /// Views `rows × columns` weights of `dtype` that begin `offset` bytes into `owner`, rows lying end to end.
    /// `None` if the bytes do not reach, or a row is not a whole number of blocks.
    pub fn new(owner: Bytes, offset: usize, dtype: DType, rows: usize, columns: usize) -> Option<Self> {
        if !columns.is_multiple_of(dtype.block_elements()) {
            return None;
        }
        let row_stride = columns.checked_div(dtype.block_elements())?.checked_mul(dtype.block_bytes())?;
        let end = row_stride.checked_mul(rows)?.checked_add(offset)?;
        (end <= (*owner).as_ref().len()).then_some(Self { owner, offset, row_stride, rows, columns, dtype })
    }

    /// A matrix of its own f32 values, `values.len() == rows * columns`.
    pub fn from_f32(values: &[f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix has rows × columns values");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(Arc::new(bytes), 0, DType::F32, rows, columns).expect("the bytes were made to fit")
    }

    /// Rows `range` of this matrix.
    pub fn row_range(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        Self { offset: self.offset + range.start * self.row_stride, rows: range.len(), ..self.clone() }
    }

    /// Columns `range` of every row; `None` if the range cuts a quantization block.
    pub fn column_range(&self, range: std::ops::Range<usize>) -> Option<Self> {
        assert!(range.start <= range.end && range.end <= self.columns, "columns {range:?} of {}", self.columns);
        let block = self.dtype.block_elements();
        if !range.start.is_multiple_of(block) || !range.end.is_multiple_of(block) {
            return None;
        }
        Some(Self { offset: self.offset + self.dtype.bytes_of(range.start), columns: range.len(), ..self.clone() })
    }

    /// The stored bytes of one row.
    pub fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let start = self.offset + row * self.row_stride;
        &(*self.owner).as_ref()[start..start + self.dtype.bytes_of(self.columns)]
    }

    /// Bytes from the beginning of a row to that of the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Number of rows (a linear layer's outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (a linear layer's inputs).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Storage format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes that the view covers, gaps between its rows left out.
    pub fn stored_bytes(&self) -> usize {
        self.rows * self.dtype.bytes_of(self.columns)
    }
}

//! Matrices as a checkpoint holds them, whatever form it holds them in. Layers take their part; only that is read.

use std::{ops::Range, sync::Arc};

use kernels::{DType, Matrix, matmul::dequantize};

use super::{FileTensor, LoadError};

/// A way to hold a matrix `[outputs, inputs]`.
pub(crate) trait Form: Send + Sync {
    /// Rows and columns of the whole.
    fn shape(&self) -> (usize, usize);

    /// The storage format that it is read into.
    fn dtype(&self) -> DType;

    /// The storage format that some columns are read into, where they alone may have another one.
    fn dtype_of(&self, _columns: &Range<usize>) -> DType {
        self.dtype()
    }

    /// Some rows, and of those some columns. A view of the file where the form allows it, else a copy.
    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError>;

    /// Whether reading it copies, even where no blocks are cut.
    fn copies(&self) -> bool {
        true
    }

    /// Called when all that is wanted of it was copied: the file's pages need not stay in memory.
    fn forget(&self);
}

/// A matrix of a checkpoint, or a part of one. Cheap to clone; nothing is read before [`Stored::read`].
#[derive(Clone)]
pub struct Stored {
    form: Arc<dyn Form>,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Stored {
    pub(crate) fn new(form: impl Form + 'static) -> Self {
        let (rows, columns) = form.shape();
        Self { form: Arc::new(form), rows: 0..rows, columns: 0..columns }
    }

    /// Zeros: rows that stand for nothing.
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(Zeros { rows, columns })
    }

    /// Number of rows (a linear layer's outputs).
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Number of columns (a linear layer's inputs).
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The storage format that it is read into.
    pub fn dtype(&self) -> DType {
        self.form.dtype_of(&self.columns)
    }

    /// Rows `range` of it.
    pub fn row_range(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows(), "rows {range:?} of {}", self.rows());
        Self { rows: self.rows.start + range.start..self.rows.start + range.end, ..self.clone() }
    }

    /// Columns `range` of every row.
    pub fn column_range(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.columns(), "columns {range:?} of {}", self.columns());
        Self { columns: self.columns.start + range.start..self.columns.start + range.end, ..self.clone() }
    }

    /// Whether its columns begin and end at multiples of `unit`.
    pub(crate) fn is_cut_at(&self, unit: usize) -> bool {
        self.columns.start.is_multiple_of(unit) && self.columns.end.is_multiple_of(unit)
    }

    /// Whether kernels can read its columns in the form's own format: they do not cut its blocks.
    pub(crate) fn keeps_blocks(&self) -> bool {
        self.is_cut_at(self.dtype().block_elements())
    }

    /// Whether reading it copies.
    pub(crate) fn copies(&self) -> bool {
        self.form.copies() || !self.keeps_blocks()
    }

    /// Reads it: a view of the file, or a copy.
    pub fn read(&self) -> Result<Matrix, LoadError> {
        self.form.read(self.rows.clone(), self.columns.clone())
    }

    /// Gives the memory of the file's pages back.
    pub(crate) fn forget(&self) {
        self.form.forget();
    }
}

/// A tensor that is the matrix: rows lie end to end.
pub(crate) struct Plain {
    tensor: FileTensor,
    matrix: Matrix,
}

impl Plain {
    pub(crate) fn of(tensor: FileTensor) -> Result<Self, LoadError> {
        Ok(Self { matrix: tensor.matrix()?, tensor })
    }
}

impl Form for Plain {
    fn shape(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.columns())
    }

    fn dtype(&self) -> DType {
        self.matrix.dtype()
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        let own = self.matrix.row_range(rows);
        Ok(own.column_range(columns.clone()).unwrap_or_else(|| column_values(&own, columns)))
    }

    fn copies(&self) -> bool {
        false
    }

    fn forget(&self) {
        self.tensor.forget();
    }
}

/// Columns that cut blocks, as values.
fn column_values(matrix: &Matrix, own: Range<usize>) -> Matrix {
    let mut values = Vec::with_capacity(matrix.rows() * own.len());
    let mut row_values = vec![0.0; matrix.columns()];
    for row in 0..matrix.rows() {
        dequantize(matrix.dtype(), matrix.row(row), &mut row_values);
        values.extend_from_slice(&row_values[own.clone()]);
    }
    Matrix::from_f32(&values, matrix.rows(), own.len())
}

/// Rows of a transposed tensor that are read side by side.
const TRANSPOSED_TOGETHER: usize = 32;

/// A tensor that holds the matrix `[inputs, outputs]`, of a format without blocks. Reading it gathers.
pub(crate) struct Transposed {
    stored: Stored,
    dtype: DType,
}

impl Transposed {
    /// `stored` is `[inputs, outputs]`.
    pub(crate) fn of(stored: Stored) -> Option<Self> {
        let dtype = stored.dtype();
        (dtype.block_elements() == 1).then_some(Self { stored, dtype })
    }
}

impl Form for Transposed {
    fn shape(&self) -> (usize, usize) {
        (self.stored.columns(), self.stored.rows())
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        let (outputs, inputs, size) = (rows.len(), columns.len(), self.dtype.block_bytes());
        let own = self.stored.row_range(columns).column_range(rows).read()?;
        let own = if own.dtype() == self.dtype { own } else { column_values(&own, 0..outputs) };
        let mut bytes = vec![0; outputs * inputs * size];
        // A few inputs at a time: their rows stay in the cache while outputs are written in runs.
        for first in (0..inputs).step_by(TRANSPOSED_TOGETHER) {
            let few: Vec<&[u8]> =
                (first..inputs.min(first + TRANSPOSED_TOGETHER)).map(|input| own.row(input)).collect();
            for output in 0..outputs {
                let run = bytes[(output * inputs + first) * size..].chunks_exact_mut(size);
                for (to, row) in run.zip(&few) {
                    to.copy_from_slice(&row[output * size..][..size]);
                }
            }
        }
        Ok(owned(bytes, self.dtype, outputs, inputs))
    }

    fn forget(&self) {
        self.stored.forget();
    }
}

/// Every `step`-th row of a matrix, from row `first` on. Reading it copies.
pub(crate) struct EveryRow {
    stored: Stored,
    first: usize,
    step: usize,
}

impl EveryRow {
    pub(crate) fn of(stored: Stored, first: usize, step: usize) -> Self {
        Self { stored, first, step }
    }
}

impl Form for EveryRow {
    fn shape(&self) -> (usize, usize) {
        ((self.stored.rows() - self.first).div_ceil(self.step), self.stored.columns())
    }

    fn dtype(&self) -> DType {
        self.stored.dtype()
    }

    fn dtype_of(&self, columns: &Range<usize>) -> DType {
        self.stored.column_range(columns.clone()).dtype()
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        let count = rows.len();
        let spanned = self.first + rows.start * self.step..self.first + rows.end.saturating_sub(1) * self.step + 1;
        let spanned = if count == 0 { 0..0 } else { spanned };
        let own = self.stored.row_range(spanned).column_range(columns).read()?;
        let bytes = (0..count).flat_map(|row| own.row(row * self.step).iter().copied()).collect();
        Ok(owned(bytes, own.dtype(), count, own.columns()))
    }

    fn forget(&self) {
        self.stored.forget();
    }
}

/// The matrix with rows and columns exchanged. What kernels only read in blocks along a row becomes values.
pub(crate) fn transposed(stored: Stored) -> Stored {
    Stored::new(Transposed {
        dtype: if stored.dtype().block_elements() == 1 { stored.dtype() } else { DType::F32 },
        stored,
    })
}

struct Zeros {
    rows: usize,
    columns: usize,
}

impl Form for Zeros {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        Ok(Matrix::from_f32(&vec![0.0; rows.len() * columns.len()], rows.len(), columns.len()))
    }

    fn forget(&self) {}
}

/// A matrix of its own bytes.
pub(crate) fn owned(bytes: Vec<u8>, dtype: DType, rows: usize, columns: usize) -> Matrix {
    Matrix::new(Arc::new(bytes), 0, dtype, rows, columns).expect("as many bytes as the matrix has")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A form of a matrix in memory.
    struct InMemory(Matrix);

    impl Form for InMemory {
        fn shape(&self) -> (usize, usize) {
            (self.0.rows(), self.0.columns())
        }

        fn dtype(&self) -> DType {
            self.0.dtype()
        }

        fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
            let own = self.0.row_range(rows);
            Ok(own.column_range(columns.clone()).unwrap_or_else(|| column_values(&own, columns)))
        }

        fn forget(&self) {}
    }

    /// A matrix of these values.
    pub(crate) fn in_memory(values: &[f32], rows: usize, columns: usize) -> Stored {
        Stored::new(InMemory(Matrix::from_f32(values, rows, columns)))
    }

    /// 0, 1, 2, … in rows of `columns`.
    fn counting(rows: usize, columns: usize) -> Stored {
        let values: Vec<f32> = (0..rows * columns).map(|value| value as f32).collect();
        in_memory(&values, rows, columns)
    }

    /// All values of a matrix, row by row.
    pub(crate) fn values(matrix: &Matrix) -> Vec<f32> {
        let mut values = vec![0.0; matrix.rows() * matrix.columns()];
        let rows = values.chunks_exact_mut(matrix.columns()).enumerate();
        rows.for_each(|(row, values)| dequantize(matrix.dtype(), matrix.row(row), values));
        values
    }

    #[test]
    fn columns_cut_within_blocks_keep_their_values() {
        // One Q8_0 row of two blocks: 0, 1, … 63 with scale 1.
        let block = |first: u8| [0x00, 0x3c].into_iter().chain(first..first + 32);
        let row = owned(block(0).chain(block(32)).collect(), DType::Q8_0, 1, 64);
        let row = Stored::new(InMemory(row));
        for own in [32..64, 16..48, 0..63, 63..64] {
            let part = row.column_range(own.clone());
            assert_eq!(part.keeps_blocks(), own == (32..64));
            let expected: Vec<f32> = own.map(|value| value as f32).collect();
            assert_eq!(values(&part.read().unwrap()), expected);
        }
    }

    #[test]
    fn parts_of_transposed_and_interleaved_matrices_are_the_wholes() {
        let transposed = Stored::new(Transposed::of(counting(3, 5)).unwrap());
        assert_eq!((transposed.rows(), transposed.columns()), (5, 3));
        let part = transposed.row_range(1..3).column_range(1..3);
        assert_eq!(values(&part.read().unwrap()), [6.0, 11.0, 7.0, 12.0]);
        let every = |first| Stored::new(EveryRow::of(counting(4, 2), first, 2));
        assert_eq!(values(&every(0).read().unwrap()), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(values(&every(1).row_range(1..2).column_range(1..2).read().unwrap()), [7.0]);
        assert_eq!(every(1).row_range(1..1).read().unwrap().rows(), 0);
    }
}

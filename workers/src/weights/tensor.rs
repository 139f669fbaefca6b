//! The tensors of one file: where each lies, by name.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use kernels::{DType, Matrix, matmul::dequantize};

use super::{LoadError, MappedFile};

/// How a file stores the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elements {
    /// Weights as kernels read them.
    Weights(DType),
    /// Something that stands for weights together with other tensors: packed quants, codes, scales' exponents.
    Raw(Raw),
}

/// Elements that mean nothing on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw {
    /// Bytes.
    U8,
    /// Signed bytes.
    I8,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// 8-bit floats, 4 bits of exponent and 3 of mantissa.
    F8E4M3,
}

impl Elements {
    /// Elements that are stored together.
    pub(crate) const fn block_elements(self) -> usize {
        match self {
            Elements::Weights(dtype) => dtype.block_elements(),
            Elements::Raw(_) => 1,
        }
    }

    /// Their name for people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Elements::Weights(dtype) => dtype.name(),
            Elements::Raw(Raw::U8) => "u8",
            Elements::Raw(Raw::I8) => "i8",
            Elements::Raw(Raw::I32) => "i32",
            Elements::Raw(Raw::I64) => "i64",
            Elements::Raw(Raw::F8E4M3) => "f8_e4m3",
        }
    }

    /// Bytes of those.
    pub(crate) const fn block_bytes(self) -> usize {
        match self {
            Elements::Weights(dtype) => dtype.block_bytes(),
            Elements::Raw(Raw::U8 | Raw::I8 | Raw::F8E4M3) => 1,
            Elements::Raw(Raw::I32) => 4,
            Elements::Raw(Raw::I64) => 8,
        }
    }
}

/// One tensor of a file. Its reader has checked that the bytes are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// Storage format.
    pub elements: Elements,
    /// Lengths, slowest first: `[outputs, inputs]` of a linear layer.
    pub shape: Vec<usize>,
    /// First byte within the file.
    pub offset: usize,
}

impl TensorInfo {
    /// Number of elements, if that is a number at all.
    pub(crate) fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length))
    }

    /// Number of bytes; `None` if the shape is absurd or a row is not a whole number of blocks.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let count = self.count()?;
        let block = self.elements.block_elements();
        let whole_rows = self.shape.last().is_none_or(|columns| columns.is_multiple_of(block));
        whole_rows.then(|| (count / block).checked_mul(self.elements.block_bytes()))?
    }
}

/// All tensors of a file, by the file's own names.
pub(crate) type TensorTable = BTreeMap<String, TensorInfo>;

/// A tensor with the mapped file that holds it. Nothing of it is read before it is asked for.
#[derive(Clone)]
pub(crate) struct FileTensor {
    pub(crate) name: Arc<str>,
    pub(crate) path: Arc<Path>,
    pub(crate) file: MappedFile,
    pub(crate) info: TensorInfo,
}

impl FileTensor {
    /// Rows and columns, all lengths but the last multiplied into rows.
    pub(crate) fn flat(&self) -> (usize, usize) {
        let columns = self.info.shape.last().copied().unwrap_or(1);
        let count = self.info.count().expect("the file's reader has checked the shape");
        (count.checked_div(columns).unwrap_or(0), columns)
    }

    /// The stored bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let length = self.info.bytes().expect("the file's reader has checked the shape");
        &self.file.bytes()[self.info.offset..self.info.offset + length]
    }

    /// As kernels read it, all lengths but the last multiplied into rows.
    pub(crate) fn matrix(&self) -> Result<Matrix, LoadError> {
        let Elements::Weights(dtype) = self.info.elements else {
            let fault = format!("holds {}, which are no weights by themselves", self.info.elements.name());
            return Err(self.fault(fault));
        };
        let (rows, columns) = self.flat();
        let matrix = Matrix::new(self.file.shared(), self.info.offset, dtype, rows, columns);
        matrix.ok_or_else(|| self.fault("does not lie within its file"))
    }

    /// Elements `range` in the order of the file, as f32. Only rows that hold some of them are read.
    pub(crate) fn values(&self, range: Range<usize>) -> Result<Vec<f32>, LoadError> {
        let matrix = self.matrix()?;
        let columns = matrix.columns();
        if range.is_empty() || columns == 0 {
            return Ok(Vec::new());
        }
        let (first, end) = (range.start / columns, range.end.div_ceil(columns));
        let mut values = vec![0.0; (end - first) * columns];
        for (row, values) in (first..end).zip(values.chunks_exact_mut(columns)) {
            dequantize(matrix.dtype(), matrix.row(row), values);
        }
        Ok(values[range.start - first * columns..range.end - first * columns].to_vec())
    }

    /// The elements of a small tensor of integers.
    pub(crate) fn integers(&self, raw: Raw) -> Result<Vec<i64>, LoadError> {
        let elements = self.info.elements;
        if elements != Elements::Raw(raw) {
            return Err(self.fault(format!("holds {elements:?}, where {raw:?} would be")));
        }
        let each = self.bytes().chunks_exact(elements.block_bytes());
        Ok(each.map(integer).collect())
    }

    /// One of the tensors that are stacked in it, `[stacked, …]`.
    pub(crate) fn nth(&self, index: usize) -> Result<Self, LoadError> {
        let (count, shape) = self.info.shape.split_first().map_or((0, &[][..]), |(count, shape)| (*count, shape));
        if index >= count {
            return Err(self.fault(format!("has no matrix number {index}: its shape is {:?}", self.info.shape)));
        }
        let offset = self.info.offset + index * (self.bytes().len() / count);
        Ok(Self { info: TensorInfo { shape: shape.into(), offset, ..self.info.clone() }, ..self.clone() })
    }

    /// Gives the memory of its pages back: what was copied need not stay.
    pub(crate) fn forget(&self) {
        let length = self.info.bytes().unwrap_or(0);
        self.file.forget(self.info.offset..self.info.offset + length);
    }

    /// A complaint about it.
    pub(crate) fn fault(&self, fault: impl Into<String>) -> LoadError {
        LoadError::tensor(&self.path, &*self.name, fault)
    }
}

/// A little-endian integer with a sign, of 8 bytes at most.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().rev().fold(sign, |value, &byte| value << 8 | i64::from(byte))
}

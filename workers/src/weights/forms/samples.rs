//! Tensors made for tests, and the comparison of what a form makes of them with what they mean.

use std::path::Path;

use ::safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use half::f16;
use kernels::{DType, Matrix, matmul::dequantize};
use serde_json::{Value, json};

use super::{Found, Tensors, find};
use crate::weights::{Encoding, Fields, LoadError, Stored, folder::Folder};

/// A folder with a few tensors.
pub(super) struct Sample {
    folder: tempfile::TempDir,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    expert: Option<usize>,
}

impl Sample {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tensors: Vec::new(), expert: None }
    }

    /// Adds a tensor or takes the place of one.
    pub(super) fn with(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(other, ..)| other != name);
        self.tensors.push((name.into(), dtype, shape.into(), bytes));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|(other, ..)| other != name);
        self
    }

    /// Of what is stacked, one.
    pub(super) fn expert(self, expert: usize) -> Self {
        Self { expert: Some(expert), ..self }
    }

    /// The matrix `name` by a `quantization_config`.
    pub(super) fn matrix(&self, name: &str, columns: usize, settings: Value) -> Result<Stored, String> {
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("as many bytes as the shape has"))
        });
        serialize_to_file(views, None, &self.folder.path().join("model.safetensors")).unwrap();
        let folder = Folder::open(self.folder.path()).unwrap();
        let missing = |name: &str| LoadError::tensor(self.folder.path(), name, "is missing");
        let tensors = Tensors { name, expert: self.expert, find: &|name| folder.tensor(name), missing: &missing };
        let found = find(&tensors, columns, &encoding(settings)).map_err(|fault| fault.to_string())?;
        found.map(|Found { stored, .. }| stored).ok_or_else(|| "nothing is there".into())
    }

    /// The line that finding it, or reading it, ends in.
    pub(super) fn fault(&self, name: &str, columns: usize, settings: Value) -> String {
        let line = match self.matrix(name, columns, settings) {
            Err(line) => line,
            Ok(stored) => stored.read().err().expect("a fault").to_string(),
        };
        assert!(!line.contains('\n'), "{line}");
        line
    }
}

fn encoding(settings: Value) -> Encoding {
    let Value::Object(object) = json!({ "quantization_config": settings }) else { unreachable!() };
    Encoding::from_json(&Fields::translated(Path::new("config.json"), object, Default::default())).unwrap()
}

/// Values of so many bits end to end, from the lowest bits of the first byte on.
pub(super) fn packed(bits: usize, values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        assert!(value < 1 << bits, "{value} of {bits} bits");
        if (index * bits).is_multiple_of(8) {
            bytes.push(0);
        }
        *bytes.last_mut().unwrap() |= (value << (index * bits % 8)) as u8;
    }
    bytes
}

/// Of a matrix of so many rows and columns, its values row after row.
pub(super) fn grid<T>(rows: usize, columns: usize, value: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..rows * columns).map(|index| value(index / columns, index % columns)).collect()
}

pub(super) fn halves(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
}

pub(super) fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

pub(super) fn ints(values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    values.into_iter().flat_map(i32::to_le_bytes).collect()
}

/// A scale that float16 holds.
pub(super) fn scale(row: usize, group: usize) -> f32 {
    (1 + (row * 3 + group * 5) % 7) as f32 / 64.0
}

/// The whole is read into `format`, and it and all kinds of parts have exactly the values `expected` of row and column.
pub(super) fn check(stored: &Stored, format: DType, expected: impl Fn(usize, usize) -> f32) {
    let (rows, columns) = (stored.rows(), stored.columns());
    assert_eq!(stored.read().unwrap().dtype(), format);
    let middle = columns / 2;
    let of_columns = [0..columns, 0..middle, 32..middle.max(32), 1..columns, middle - 9..middle + 5, 3..4, 5..5];
    for own_rows in [0..rows, 0..1, rows / 2..rows, rows - 1..rows, 1..1] {
        for own in &of_columns {
            let part = stored.row_range(own_rows.clone()).column_range(own.clone());
            let matrix = part.read().unwrap();
            assert_eq!((matrix.rows(), matrix.columns()), (own_rows.len(), own.len()));
            for (index, row) in own_rows.clone().enumerate() {
                let expected: Vec<f32> = own.clone().map(|column| expected(row, column)).collect();
                assert_eq!(values(&matrix, index), expected, "row {row}, columns {own:?} as {:?}", matrix.dtype());
            }
        }
    }
}

fn values(matrix: &Matrix, row: usize) -> Vec<f32> {
    let mut values = vec![0.0; matrix.columns()];
    dequantize(matrix.dtype(), matrix.row(row), &mut values);
    values
}

//! Weights out of nothing: `--load-choices dummy` has a model of a given shape computed before its files are there.

use std::{hash::Hasher, ops::Range};

use half::{bf16, f16};
use kernels::{DType, Matrix, matmul::dequantize};

use super::{
    Fields, LoadError, Stored,
    stored::{Form, owned},
};

/// Weights lie between minus and plus this, evenly: the spread of fresh models (0.02) as a standard deviation.
const GREATEST: f32 = 0.034_64;

/// Random weights. An element depends on its tensor's name and its place only, so that ranks agree on what they share.
pub(crate) struct Random {
    dtype: DType,
}

impl Random {
    /// In the format that config.json names; bfloat16 where it is silent.
    pub(crate) fn of(fields: &Fields) -> Result<Self, LoadError> {
        let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        let dtype = match fields.text(key)? {
            None | Some("bfloat16") => DType::BF16,
            Some("float16") => DType::F16,
            Some("float32") => DType::F32,
            Some(_) => return Err(fields.fault(key, "bfloat16, float16 or float32")),
        };
        Ok(Self { dtype })
    }

    /// The matrix `name`.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Stored {
        Stored::new(RandomMatrix { seed: seed(name), dtype: self.dtype, rows, columns })
    }

    /// Elements `own` of the vector `name`; the weights of norms are one.
    pub(crate) fn vector(&self, name: &str, length: usize, own: Range<usize>) -> Result<Vec<f32>, LoadError> {
        if name.ends_with("norm.weight") {
            return Ok(vec![1.0; own.len()]);
        }
        let matrix = self.matrix(name, 1, length).column_range(own.clone()).read()?;
        let mut values = vec![0.0; own.len()];
        dequantize(matrix.dtype(), matrix.row(0), &mut values);
        Ok(values)
    }
}

struct RandomMatrix {
    seed: u64,
    dtype: DType,
    rows: usize,
    columns: usize,
}

impl Form for RandomMatrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Matrix, LoadError> {
        let (count, length) = (rows.len(), columns.len());
        let mut bytes = vec![0; self.dtype.bytes_of(count * length)];
        for (row, bytes) in rows.zip(bytes.chunks_exact_mut(self.dtype.bytes_of(length).max(1))) {
            let values = columns.clone().map(|column| self.value((row * self.columns + column) as u64));
            match self.dtype {
                DType::F16 => write(bytes, values.map(|value| f16::from_f32(value).to_le_bytes())),
                DType::F32 => write(bytes, values.map(f32::to_le_bytes)),
                _ => write(bytes, values.map(|value| bf16::from_f32(value).to_le_bytes())),
            }
        }
        Ok(owned(bytes, self.dtype, count, length))
    }

    fn forget(&self) {}
}

impl RandomMatrix {
    /// The finalizer of SplitMix64 (Steele, Lea and Flood 2014) over the element's number.
    fn value(&self, index: u64) -> f32 {
        let mut mixed = self.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        share * GREATEST
    }
}

fn write<const BYTES: usize>(to: &mut [u8], values: impl Iterator<Item = [u8; BYTES]>) {
    to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

fn seed(name: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_wholes_and_names_differ() {
        let random = Random { dtype: DType::BF16 };
        let whole = random.matrix("a", 5, 7).read().unwrap();
        let part = random.matrix("a", 5, 7).row_range(2..4).column_range(3..6).read().unwrap();
        for row in 0..2 {
            assert_eq!(part.row(row), &whole.row(row + 2)[6..12]);
        }
        assert_ne!(random.matrix("b", 5, 7).read().unwrap().row(0), whole.row(0));
        assert_eq!(random.vector("model.norm.weight", 9, 3..5).unwrap(), [1.0, 1.0]);
        let bias = random.vector("q_proj.bias", 9, 0..9).unwrap();
        assert_eq!(random.vector("q_proj.bias", 9, 3..5).unwrap(), bias[3..5]);
        assert!(bias.iter().all(|value| value.abs() <= GREATEST) && bias.iter().any(|value| value.abs() > 1e-3));
    }
}

//! Tensors that scales, zero points and packed codes are read from, checked once and then read by place.

use half::{bf16, f16};
use kernels::DType;

use crate::weights::{Elements, FileTensor, LoadError, Raw};

/// Floats of a tensor, stored as such or as exponents of two (e8m0).
pub(crate) struct Numbers {
    pub tensor: FileTensor,
}

impl Numbers {
    /// Refuses what is neither.
    pub(super) fn of(tensor: FileTensor) -> Result<Self, LoadError> {
        match tensor.info.elements {
            Elements::Weights(DType::F32 | DType::F16 | DType::BF16) | Elements::Raw(Raw::U8) => Ok(Self { tensor }),
            other => Err(tensor.fault(format!("holds {other:?}, which are no scales"))),
        }
    }

    /// Rows and columns, lengths of one left out: a scale is `[1, 1]`, one for each output `[outputs, 1]`.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self.tensor.info.shape[..] {
            [] => (1, 1),
            [rows] => (rows, 1),
            _ => self.tensor.flat(),
        }
    }

    /// The number at a place; not a number where an exponent says so.
    pub(super) fn at(&self, index: usize) -> f32 {
        let bytes = self.tensor.bytes();
        match self.tensor.info.elements {
            Elements::Weights(DType::F32) => f32::from_le_bytes(array(bytes, index)),
            Elements::Weights(DType::F16) => f16::from_le_bytes(array(bytes, index)).to_f32(),
            Elements::Weights(_) => bf16::from_le_bytes(array(bytes, index)).to_f32(),
            Elements::Raw(_) => power_of_two(bytes[index]),
        }
    }
}

/// e8m0: 2 to the power of (byte − 127), 255 being no number.
fn power_of_two(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(0x40_0000),
        255 => f32::NAN,
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// 32-bit words `[rows, columns]`.
pub(crate) struct Words {
    pub tensor: FileTensor,
    pub rows: usize,
    pub columns: usize,
}

impl Words {
    /// Refuses what is no matrix of words.
    pub(super) fn of(tensor: FileTensor) -> Result<Self, LoadError> {
        match (&tensor.info.shape[..], tensor.info.elements) {
            (&[rows, columns], Elements::Raw(Raw::I32)) => Ok(Self { tensor, rows, columns }),
            (shape, elements) => {
                Err(tensor.fault(format!("holds {elements:?} in the shape {shape:?}, where packed words would be")))
            }
        }
    }

    /// One of them.
    pub(super) fn at(&self, row: usize, column: usize) -> u32 {
        word(self.tensor.bytes(), row * self.columns + column)
    }
}

/// Word `index` of some bytes.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(array(bytes, index))
}

fn array<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
    bytes[index * N..][..N].try_into().expect("as many bytes as were taken")
}

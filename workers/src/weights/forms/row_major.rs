//! Codes that lie as the matrix does, row after row.

use super::{Grid, Groups, Kind, Quants, Scale, Words};
use crate::weights::{Elements, FileTensor, LoadError, Raw};

/// A tensor of codes, a grid of scales, and zero points where there are any.
pub(crate) struct RowMajor {
    pub codes: FileTensor,
    pub coding: Coding,
    /// Rows and columns of the matrix.
    pub shape: (usize, usize),
    /// Bytes of a row of codes.
    pub row_bytes: usize,
    pub grid: Grid,
    pub groups: Groups,
    pub zeros: Zeros,
}

/// How codes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// FP8.
    E4M3,
    /// Bytes from −128 to 127; as codes, 128 more.
    Signed,
    /// Bytes from 0 on.
    Bytes,
    /// Two to a byte, low half first: integers …
    Nibbles,
    /// … or FP4.
    E2M1,
}

/// Zero points of codes.
pub(crate) enum Zeros {
    /// One for all.
    Same(i32),
    /// Signed bytes `[tiles down, tiles across]`, to be added to one for all.
    Bytes(i32, FileTensor),
    /// Bits of words, packed along the rows: `[rows × bits ÷ 32, tiles across]`.
    Packed(Words, usize),
}

impl Coding {
    fn kind(self) -> Kind {
        match self {
            Coding::E4M3 => Kind::E4M3,
            Coding::Signed | Coding::Bytes => Kind::U8,
            Coding::Nibbles => Kind::U4,
            Coding::E2M1 => Kind::E2M1,
        }
    }
}

impl Zeros {
    /// Refuses tensors that are not as large as `grid`.
    pub(super) fn of(tensor: FileTensor, bits: usize, middle: i32, grid: &Grid) -> Result<Self, LoadError> {
        let (down, across) = grid.shape();
        let misshapen = |tensor: &FileTensor, (rows, columns): (usize, usize)| {
            tensor.fault(format!("has shape {rows} × {columns}, its scales have {down} × {across}"))
        };
        if tensor.info.elements == Elements::Raw(Raw::I8) {
            let found = tensor.flat();
            let fits = found == (down, across) || found.0 * found.1 == down && across == 1;
            return if fits { Ok(Zeros::Bytes(middle, tensor)) } else { Err(misshapen(&tensor, found)) };
        }
        let words = Words::of(tensor)?;
        if (words.rows, words.columns) != ((down * bits).div_ceil(32), across) {
            return Err(misshapen(&words.tensor, (words.rows, words.columns)));
        }
        Ok(Zeros::Packed(words, bits))
    }

    fn tensor(&self) -> Option<&FileTensor> {
        match self {
            Zeros::Same(_) => None,
            Zeros::Bytes(_, tensor) => Some(tensor),
            Zeros::Packed(words, _) => Some(&words.tensor),
        }
    }
}

impl Quants for RowMajor {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn kind(&self) -> Kind {
        self.coding.kind()
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn codes(&self, row: usize, first: usize, to: &mut [u8]) {
        let bytes = &self.codes.bytes()[row * self.row_bytes..][..self.row_bytes];
        match self.coding {
            Coding::E4M3 | Coding::Bytes => to.copy_from_slice(&bytes[first..][..to.len()]),
            Coding::Signed => to.iter_mut().zip(&bytes[first..]).for_each(|(code, byte)| *code = byte ^ 0x80),
            Coding::Nibbles | Coding::E2M1 => {
                for (column, code) in (first..).zip(to) {
                    *code = bytes[column / 2] >> (column % 2 * 4) & 15;
                }
            }
        }
    }

    fn scale(&self, row: usize, group: usize) -> Scale {
        let zero = match &self.zeros {
            Zeros::Same(zero) => *zero,
            Zeros::Bytes(middle, tensor) => middle + i32::from(tensor.bytes()[self.grid.place(row, group)] as i8),
            Zeros::Packed(words, bits) => {
                let (down, across) = self.grid.cell(row, group);
                (words.at(down * bits / 32, across) >> (down * bits % 32) & ((1 << bits) - 1)) as i32
            }
        };
        Scale { scale: self.grid.at(row, group), zero }
    }

    fn tensors(&self) -> Vec<&FileTensor> {
        [&self.codes, &self.grid.numbers.tensor].into_iter().chain(self.zeros.tensor()).collect()
    }
}

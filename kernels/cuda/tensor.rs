//! Activations, and what lives as long: tensors in runs of the arena.

use std::cell::Cell;

use half::bf16;

use super::arena::{Arena, Buffer};
use super::driver::Pointer;
use crate::Result;

/// What a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    BF16,
}

impl Element {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 => 2,
        }
    }

    /// Values as the device stores them.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        }
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
            Self::BF16 => bytes.as_chunks::<2>().0.iter().map(|&value| bf16::from_le_bytes(value).to_f32()).collect(),
        }
    }
}

/// `[rows, columns]`, row-major, in the type of activations or in f32.
pub struct Tensor {
    rows: usize,
    columns: usize,
    element: Element,
    buffer: Buffer,
    rows_here: Cell<RowsHere>,
}

/// Of which of its rows a tensor has what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsHere {
    All,
    /// Those whose number has this rank as its remainder by the number of ranks: of the others somebody else knows more.
    Own,
}

impl Tensor {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    pub(crate) fn elements(&self) -> usize {
        self.rows * self.columns
    }

    pub(crate) fn bytes(&self) -> usize {
        self.elements() * self.element.bytes()
    }

    pub(crate) fn pointer(&self) -> Pointer {
        self.buffer.pointer()
    }

    pub(crate) fn rows_here(&self) -> RowsHere {
        self.rows_here.get()
    }

    pub(crate) fn set_rows_here(&self, rows: RowsHere) {
        self.rows_here.set(rows);
    }

    /// With left-over contents.
    pub(crate) fn take(arena: &Arena, rows: usize, columns: usize, element: Element) -> Result<Self> {
        let buffer = arena.take(rows * columns * element.bytes())?;
        Ok(Self { rows, columns, element, buffer, rows_here: Cell::new(RowsHere::All) })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> TensorPlace {
        assert_eq!(self.rows_here(), RowsHere::All, "a step's result");
        TensorPlace { rows: self.rows, columns: self.columns, element: self.element, pointer: self.pointer() }
    }
}

/// Where a tensor was when it was recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TensorPlace {
    rows: usize,
    columns: usize,
    element: Element,
    pointer: Pointer,
}

impl TensorPlace {
    /// The tensor that a recorded step leaves there.
    pub(crate) fn retake(&self, arena: &Arena) -> Tensor {
        let Self { rows, columns, element, pointer } = *self;
        let buffer = arena.retake(pointer, rows * columns * element.bytes());
        Tensor { rows, columns, element, buffer, rows_here: Cell::new(RowsHere::All) }
    }
}

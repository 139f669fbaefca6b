//! Activations and weights as the CPU sees them.

use std::{
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{Floats, Rounding, simd::Isa, team::Team};
use crate::{
    Matrix,
    matmul::{Integers, Packed},
};

/// `[rows, columns]` of f32, row-major. Its memory goes back to the device's [`Buffers`] when it is dropped, so that a
/// steady step asks the allocator for nothing.
pub struct Tensor {
    rows: usize,
    columns: usize,
    data: Floats,
    home: Buffers,
}

impl Tensor {
    /// A tensor whose contents are left over from another, or zeros.
    pub(super) fn take(home: &Buffers, rows: usize, columns: usize) -> Self {
        Self { rows, columns, data: home.take(rows * columns), home: home.clone() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All elements, row-major.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..][..self.columns]
    }

    /// One row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.columns..][..self.columns]
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.data));
    }
}

/// A device's list of free buffers, shared with its tensors.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Floats>>>);

impl Buffers {
    /// More free buffers than a forward pass has tensors alive would only be hoarding.
    const KEPT_MAX: usize = 16;

    /// The smallest free buffer that is large enough, else a fresh one.
    fn take(&self, length: usize) -> Floats {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let best = (0..free.len()).filter(|&i| free[i].capacity() >= length).min_by_key(|&i| free[i].capacity());
        let mut buffer = best.map(|i| free.swap_remove(i)).unwrap_or_default();
        drop(free);
        buffer.resize(length);
        buffer
    }

    /// Keeps the buffer; of too many, the smallest goes.
    fn give_back(&self, buffer: Floats) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
        if free.len() > Self::KEPT_MAX {
            let smallest = (0..free.len()).min_by_key(|&i| free[i].capacity()).expect("more than none");
            free.swap_remove(smallest);
        }
    }
}

/// Some outputs of a weight.
#[derive(Clone)]
pub(crate) struct Piece<'a> {
    /// The matrix that stores them.
    pub(crate) part: &'a Matrix,
    /// The same rearranged, where it is packed.
    pub(crate) packed: Option<&'a Packed>,
    /// Their rows in it.
    pub(crate) rows: Range<usize>,
    /// The first one's number in the range that was cut up.
    pub(crate) first: usize,
}

/// A weight `[outputs, inputs]`: stored matrices, the outputs of one after those of the other. They are read where they
/// lie, or if they are multiplied and their format allows it, packed once: embeddings are not.
pub struct Weight {
    parts: Vec<Matrix>,
    packed: OnceLock<Vec<Option<Packed>>>,
    outputs: usize,
    inputs: usize,
}

impl Weight {
    /// Joins `parts`; all have as many columns as the first.
    pub(crate) fn new(parts: Vec<Matrix>) -> Self {
        let inputs = parts.first().map_or(0, Matrix::columns);
        assert!(parts.iter().all(|part| part.columns() == inputs), "the parts of a weight have the same inputs");
        Self { outputs: parts.iter().map(Matrix::rows).sum(), inputs, parts, packed: OnceLock::new() }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The stored matrices, each with its first output.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, &Matrix)> {
        self.parts.iter().scan(0, |next, part| {
            let first = *next;
            *next += part.rows();
            Some((first, part))
        })
    }

    /// Packs the parts that can be, unless they are, for products in this instruction set with activations that are rounded
    /// so.
    pub(crate) fn pack(&self, rounding: Rounding, isa: Isa, team: &Team) {
        self.packed.get_or_init(|| self.parts.iter().map(|part| Packed::of(part, rounding, isa, team)).collect());
    }

    /// Whether some part is packed.
    pub(crate) fn has_packed(&self) -> bool {
        self.packed.get().is_some_and(|packed| packed.iter().any(Option::is_some))
    }

    /// The parts that are packed as integers.
    pub(crate) fn integers(&self) -> impl Iterator<Item = &Integers> {
        self.packed.get().into_iter().flatten().filter_map(|packed| match packed {
            Some(Packed::Integers(integers)) => Some(integers),
            _ => None,
        })
    }

    /// Whether all parts are packed.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.get().is_some_and(|packed| packed.iter().all(Option::is_some))
    }

    /// Whether it is two stored matrices of as many outputs.
    pub(crate) fn has_equal_halves(&self) -> bool {
        matches!(&self.parts[..], [first, second] if first.rows() == second.rows())
    }

    /// The outputs `range` in pieces of `grain` at most, each within one stored matrix.
    pub(crate) fn pieces(&self, range: Range<usize>, grain: usize) -> impl Iterator<Item = Piece<'_>> {
        let packed = self.packed.get().map_or(&[][..], Vec::as_slice);
        self.parts().enumerate().flat_map(move |(index, (first, part))| {
            let own = range.start.max(first)..range.end.min(first + part.rows());
            let begin = range.start;
            own.clone().step_by(grain).map(move |start| Piece {
                part,
                packed: packed.get(index).and_then(Option::as_ref),
                rows: start - first..own.end.min(start + grain) - first,
                first: start - begin,
            })
        })
    }

    /// The part that stores an output's weights, and their row in it.
    pub(crate) fn row(&self, output: usize) -> (&Matrix, usize) {
        let (first, part) =
            self.parts().find(|(first, part)| (*first..first + part.rows()).contains(&output)).expect("a row within");
        (part, output - first)
    }
}

//! Where layers take their weights from: a checkpoint, for one shard and one device.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::Range,
};

use kernels::{DType, Matrix, memory::Memory};

use super::Shard;
use crate::{
    models::{ModelConfig, WeightOptions},
    weights::{Checkpoint, LoadError, Stored},
};

/// A checkpoint on its way to a rank's device. Layers ask for whole tensors by name and shape, and keep their shard of
/// the views they get; a page of the file is read only where a kept view is.
pub(crate) struct Source<'a, M> {
    /// Where the weights go.
    pub device: &'a M,
    /// Whose weights are wanted.
    pub shard: Shard,
    /// How.
    pub options: WeightOptions,
    checkpoint: &'a Checkpoint,
    purpose: Purpose,
    taken: RefCell<BTreeSet<String>>,
    weight_bytes: Cell<u64>,
}

/// What the weights are wanted for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Purpose {
    /// To be computed with: this rank's bytes are read.
    Load,
    /// To be found there, in their shapes: no matrix is read.
    Check,
}

impl<'a, M: Memory> Source<'a, M> {
    /// The weights of `checkpoint` for `shard`, bound for `device`.
    pub(crate) fn new(
        device: &'a M,
        checkpoint: &'a Checkpoint,
        shard: Shard,
        options: WeightOptions,
        purpose: Purpose,
    ) -> Self {
        let (taken, weight_bytes) = (RefCell::default(), Cell::new(0));
        Self { device, shard, options, checkpoint, purpose, taken, weight_bytes }
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &'a ModelConfig {
        self.checkpoint.config()
    }

    /// Whether there is a tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }

    /// The whole matrix `name`, `rows × columns`, as the file has it.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Stored, LoadError> {
        self.take(name);
        self.checkpoint.matrix(name, rows, columns)
    }

    /// The part `own` of the vector `name` of `length` elements, as f32.
    pub(crate) fn vector(&self, name: &str, length: usize, own: Range<usize>) -> Result<Vec<f32>, LoadError> {
        self.take(name);
        self.checkpoint.vector(name, length, own)
    }

    /// Rows of several matrices as one weight on the device.
    pub(crate) fn weight(&self, parts: Vec<Stored>) -> Result<M::Weight, LoadError> {
        let bytes: usize = parts.iter().map(stored_bytes).sum();
        self.weight_bytes.set(self.weight_bytes.get() + bytes as u64);
        if self.purpose == Purpose::Check {
            return Ok(self.device.weight(Vec::new())?);
        }
        let read = parts.iter().map(|part| {
            let matrix = part.read()?;
            fetch(&matrix);
            Ok(matrix)
        });
        let matrices = read.collect::<Result<Vec<Matrix>, LoadError>>()?;
        Ok(self.device.weight(matrices)?)
    }

    /// Stored bytes of all weights so far.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.weight_bytes.get()
    }

    /// Values that go to the device as one row.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<M::Tensor, LoadError> {
        Ok(self.device.tensor(1, values.len(), values)?)
    }

    /// The tensors that layers asked for, by the file's own names.
    pub(crate) fn taken(&self) -> BTreeSet<String> {
        self.taken.borrow().clone()
    }

    fn take(&self, name: &str) {
        self.taken.borrow_mut().insert(self.checkpoint.own_name(name));
    }
}

/// Bytes of a part once it is read.
fn stored_bytes(part: &Stored) -> usize {
    let dtype = if part.keeps_blocks() { part.dtype() } else { DType::F32 };
    part.rows() * dtype.bytes_of(part.columns())
}

/// Has the view's pages read from the file now, while loading is expected to take time, and not in the first step.
fn fetch(matrix: &Matrix) {
    /// No page is smaller.
    const PAGE_BYTES: usize = 4096;
    for row in 0..matrix.rows() {
        let bytes = matrix.row(row);
        let sum = bytes.iter().step_by(PAGE_BYTES).chain(bytes.last()).fold(0, |sum, byte| sum ^ byte);
        std::hint::black_box(sum);
    }
}

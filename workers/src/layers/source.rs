//! Where layers take their weights from: a checkpoint, for one shard and one device.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use kernels::{DType, Matrix, memory::Memory};

use super::Shard;
use crate::{
    models::{LoadOptions, ModelConfig, Role, WeightOptions},
    weights::{Checkpoint, LoadError, Stored, convert, target},
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
    threads: usize,
    taken: RefCell<BTreeSet<String>>,
    inventory: RefCell<Inventory>,
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
        options: LoadOptions,
        purpose: Purpose,
    ) -> Self {
        let (taken, inventory) = (RefCell::default(), RefCell::default());
        let LoadOptions { threads, weights: mut options, .. } = options;
        // The makers' advice counts where the user is silent.
        let has_experts = checkpoint.config().moe.is_some();
        let advice = checkpoint.encoding().at_load().and_then(|advice| advice.quantization(has_experts));
        options.quantization = options.quantization.or(advice);
        Self { device, shard, options, checkpoint, purpose, threads, taken, inventory }
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

    /// Rows of several matrices as one weight on the device, in the format that its role asks for.
    pub(crate) fn weight(&self, parts: Vec<Stored>, role: Role) -> Result<M::Weight, LoadError> {
        let formats = self.options.formats(role, self.config().moe.is_some());
        let mut matrices = Vec::new();
        for part in &parts {
            let to = target(part, &formats);
            self.inventory.borrow_mut().add(part, to);
            if self.purpose == Purpose::Load {
                matrices.push(self.read(part, to)?);
            }
        }
        Ok(self.device.weight(matrices)?)
    }

    /// [`Self::weight`], ready to be multiplied with, and for nothing else: of what the device has in another form, the
    /// file's pages are given back.
    pub(crate) fn factor(&self, parts: Vec<Stored>, role: Role) -> Result<M::Weight, LoadError> {
        let weight = self.weight(parts.clone(), role)?;
        if self.purpose == Purpose::Load && self.device.prepare(&weight) {
            parts.iter().for_each(Stored::forget);
        }
        Ok(weight)
    }

    fn read(&self, part: &Stored, to: Option<DType>) -> Result<Matrix, LoadError> {
        let matrix = match to {
            Some(to) => convert(part, to, self.threads)?,
            None => part.read()?,
        };
        if to.is_some() || part.copies() {
            part.forget();
        } else {
            fetch(&matrix);
        }
        Ok(matrix)
    }

    /// All weights so far.
    pub(crate) fn inventory(&self) -> Inventory {
        self.inventory.borrow().clone()
    }

    /// Values that go to the device as a vector.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<M::Tensor, LoadError> {
        Ok(self.device.vector(values)?)
    }

    /// The tensors that layers asked for while the model was checked, by the file's own names.
    pub(crate) fn taken(&self) -> BTreeSet<String> {
        self.taken.borrow().clone()
    }

    fn take(&self, name: &str) {
        if self.purpose == Purpose::Check {
            self.taken.borrow_mut().insert(self.checkpoint.own_name(name));
        }
    }
}

/// How many weights a rank has, by storage format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Weights and their bytes, by the format's name.
    pub formats: BTreeMap<&'static str, Amount>,
    /// Weights that are not kept as the file has them.
    pub converted: u64,
}

/// Weights of one format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub weights: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Inventory {
    fn add(&mut self, part: &Stored, to: Option<DType>) {
        let own = if part.keeps_blocks() { part.dtype() } else { DType::F32 };
        let dtype = to.unwrap_or(own);
        let weights = (part.rows() * part.columns()) as u64;
        self.converted += to.map_or(0, |_| weights);
        let amount = self.formats.entry(dtype.name()).or_default();
        amount.weights += weights;
        amount.bytes += (part.rows() * dtype.bytes_of(part.columns())) as u64;
    }

    /// How many weights there are.
    pub fn weights(&self) -> u64 {
        self.formats.values().map(|amount| amount.weights).sum()
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.formats.values().map(|amount| amount.bytes).sum()
    }
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

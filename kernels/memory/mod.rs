//! Memory of a device: activations, weights, the KV cache, and the way between host and device.

mod cpu;
#[allow(unsafe_code, reason = "copies to and from a GPU")]
mod cuda;

use std::{borrow::Cow, ops::Range};

use crate::{Batch, KvShape, Matrix, Result, rotary::Turns};

/// Where a model's numbers live.
pub trait Memory: Send + Sized + 'static {
    /// Activations, `[rows, columns]`, in the device's computation type (f32 on the CPU); or in f32 everywhere: the residual
    /// stream, what is chosen by, and vectors.
    type Tensor: Send;
    /// A weight matrix `[outputs, inputs]` in the form that the device's kernels read.
    type Weight: Send;
    /// The step's batch on the device.
    type Batch;
    /// Keys and values of all layers, by block.
    type KvCache: Send;
    /// By which angles heads are turned.
    type Angles: Send;

    /// The device's name for people, for instance `cpu (2 threads, avx2)`.
    fn name(&self) -> String;

    /// Copies `values` (`rows × columns`, row-major) to the device.
    fn tensor(&self, rows: usize, columns: usize, values: &[f32]) -> Result<Self::Tensor>;

    /// Copies `values` to the device as a tensor `[1, n]` of f32, whatever activations are: norms' weights, biases, sinks.
    fn vector(&self, values: &[f32]) -> Result<Self::Tensor>;

    /// Copies a tensor to the host, row-major.
    fn to_host(&self, tensor: &Self::Tensor) -> Result<Vec<f32>>;

    /// Some rows of a tensor on the host: copied there, or as they lie.
    fn rows_to_host<'a>(&self, tensor: &'a Self::Tensor, rows: Range<usize>) -> Result<Cow<'a, [f32]>>;

    /// Takes a weight whose outputs are those of `parts`, one after the other (`q`, `k`, `v`, say); all have the same
    /// number of columns, dtypes may differ. The CPU reads the parts where they lie, until it multiplies with them.
    fn weight(&self, parts: Vec<Matrix>) -> Result<Self::Weight>;

    /// Does now what a weight's first product would do else; whether products need the parts' own bytes no more.
    fn prepare(&self, _weight: &Self::Weight) -> bool {
        false
    }

    /// The same for a weight that is multiplied with few rows, whatever the batch: a model's head.
    fn prepare_for_few(&self, weight: &Self::Weight) -> bool {
        self.prepare(weight)
    }

    /// Hands a step's batch to the device.
    fn batch(&self, batch: Batch) -> Result<Self::Batch>;

    /// Prepares to turn heads.
    fn angles(&self, turns: Turns) -> Result<Self::Angles>;

    /// Bytes that may still be taken where `share` of the device's memory may be used at most; none where whoever runs
    /// the ranks knows that better (the CPU's memory is everybody's).
    fn room(&self, share: f64) -> Result<Option<u64>>;

    /// Takes the memory of a KV cache, zeroed.
    fn kv_cache(&self, shape: KvShape) -> Result<Self::KvCache>;
}

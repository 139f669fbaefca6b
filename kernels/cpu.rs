//! The CPU as a device: a thread team, recycled buffers, and the group of ranks it meets in collectives.

mod kv_cache;
mod tensor;

pub(crate) use kv_cache::Elements;
pub use kv_cache::KvCache;
pub use tensor::{Tensor, Weight};

use crate::{Backend, group::Group};
use tensor::Buffers;

/// What a CPU device is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuConfig {
    /// Threads that compute, the caller's included; 0 counts as 1.
    pub threads: usize,
    /// Cores to pin them to, `cores[0]` for the thread that makes the device; empty: not pinned.
    pub cores: Vec<usize>,
    /// Whether every thread has a core of its own, so that waiting within a step may spin.
    pub spin: bool,
}

/// One rank's share of the machine's cores.
pub struct Cpu {
    pub(crate) config: CpuConfig,
    pub(crate) group: Group,
    pub(crate) buffers: Buffers,
}

impl Cpu {
    /// A device of `config.threads` threads that meets the other ranks in `group`.
    pub fn new(config: CpuConfig, group: Group) -> Self {
        Self { config, group, buffers: Buffers::default() }
    }

    /// The ranks it meets.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// A tensor with arbitrary finite contents, for an operation that writes all of it.
    pub(crate) fn scratch(&self, rows: usize, columns: usize) -> Tensor {
        Tensor::take(&self.buffers, rows, columns)
    }
}

impl Backend for Cpu {}

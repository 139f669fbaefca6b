//! The CPU as a device: a thread team, recycled buffers, and the group of ranks it meets in collectives.

#[allow(unsafe_code, reason = "slices of aligned lines")]
mod floats;
mod kv_cache;
#[allow(unsafe_code, reason = "maps files")]
pub(crate) mod lasting;
#[allow(unsafe_code, reason = "advises the system on pages")]
mod pages;
pub(crate) mod shorts;
#[allow(unsafe_code, reason = "vector instructions, behind a proof that the machine has them")]
pub(crate) mod simd;
#[allow(unsafe_code, reason = "lends parts of slices to threads")]
mod split;
#[allow(unsafe_code, reason = "lends the caller's closure to the helpers")]
pub(crate) mod team;
mod tensor;

pub(crate) use floats::Floats;
pub use kv_cache::KvCache;
pub(crate) use kv_cache::{
    Elements, KEY_EXCESS, KvBF16, KvF8E4M3, KvF16, KvF32, KvFormat, KvInt8, LARGEST_HEAD, LARGEST_SHORT, Planes,
    greatest,
};
pub(crate) use split::Split;
pub(crate) use tensor::Piece;
pub use tensor::{Tensor, Weight};

use std::{
    fs::File,
    sync::{Arc, Mutex},
};

use crate::{Backend, group::Group, matmul::Rounded};
use simd::{Isa, Portable};
use team::Team;
use tensor::Buffers;

/// What a CPU device is told.
#[derive(Debug, Clone, Default)]
pub struct CpuConfig {
    /// Threads that compute, the caller's included; 0 counts as 1.
    pub threads: usize,
    /// Cores to pin them to, `cores[0]` for the thread that makes the device; empty: not pinned.
    pub cores: Vec<usize>,
    /// Whether every thread has a core of its own, so that waiting within a step may spin.
    pub spin: bool,
    /// Which vector instructions to use.
    pub instructions: Instructions,
    /// What activations are rounded to where they are multiplied with quantized weights.
    pub rounding: Rounding,
    /// A file that the KV cache is to lie in, as long as it has to be; none: in the process's own memory.
    pub kv_memory: Option<Arc<File>>,
}

/// What activations are rounded to where they are multiplied with quantized weights, 32 of them with a scale of their own:
/// machines have faster products of integers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Nothing: they stay f32.
    Nothing,
    /// Integers of 16 bits.
    #[default]
    Shorts,
    /// Integers of 8 bits, as llama.cpp and CTranslate2 do: half the operations, where products are of bytes.
    Bytes,
}

/// The vector instructions that a device may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// The best that the machine has; fewer if the environment says `SHARDWIRE_ISA=portable`, `=avx2` or `=avx512`.
    #[default]
    Best,
    /// AVX-512 at most, without tiles (AMX).
    Avx512,
    /// AVX2 at most.
    Avx2,
    /// What every machine of this architecture has.
    Portable,
}

/// One rank's share of the machine's cores.
pub struct Cpu {
    pub(crate) team: Team,
    pub(crate) isa: Isa,
    pub(crate) group: Group,
    pub(crate) rounding: Rounding,
    pub(crate) kv_memory: Option<Arc<File>>,
    buffers: Buffers,
    /// What the last product with packed weights read: kept for its memory. Nobody waits for the lock, for a device
    /// computes one operation after the other.
    pub(crate) rounded: Mutex<Rounded>,
}

impl Cpu {
    /// A device of `config.threads` threads that meets the other ranks in `group`.
    pub fn new(config: CpuConfig, group: Group) -> Self {
        let isa = config.instructions.isa();
        Self {
            team: Team::new(&config),
            isa,
            group,
            rounding: config.rounding,
            kv_memory: config.kv_memory,
            buffers: Buffers::default(),
            rounded: Mutex::default(),
        }
    }

    /// A tensor with left-over contents, for an operation that writes all of it.
    pub(crate) fn scratch(&self, rows: usize, columns: usize) -> Tensor {
        Tensor::take(&self.buffers, rows, columns)
    }
}

impl Instructions {
    /// Those of this machine.
    pub(crate) fn isa(self) -> Isa {
        let wanted = match std::env::var("SHARDWIRE_ISA").as_deref() {
            Ok("portable") => Instructions::Portable,
            Ok("avx2") => Instructions::Avx2,
            Ok("avx512") => Instructions::Avx512,
            _ => Instructions::Best,
        };
        match self.max(wanted) {
            Instructions::Best => Isa::detect(),
            Instructions::Avx512 => Isa::without_amx(),
            Instructions::Avx2 => Isa::without_avx512(),
            Instructions::Portable => Isa::Portable(Portable),
        }
    }
}

impl Backend for Cpu {
    fn group(&self) -> &Group {
        &self.group
    }

    fn collective_wait(&self) -> Option<std::time::Duration> {
        Some(self.group.waited())
    }
}

#[cfg(test)]
impl Cpu {
    /// A lone device.
    pub(crate) fn solo(threads: usize, instructions: Instructions) -> Self {
        Self::that_rounds(threads, instructions, Rounding::default())
    }

    /// The same, with this rounding.
    pub(crate) fn that_rounds(threads: usize, instructions: Instructions, rounding: Rounding) -> Self {
        Self::new(CpuConfig { threads, instructions, rounding, ..CpuConfig::default() }, Group::solo())
    }

    /// The devices that every operation's check runs on: instruction sets and team sizes, and one that is exact.
    pub(crate) fn kinds() -> [Self; 6] {
        let exact = Self::that_rounds(2, Instructions::Best, Rounding::Nothing);
        [
            Self::solo(1, Instructions::Best),
            Self::solo(3, Instructions::Best),
            Self::solo(2, Instructions::Avx512),
            Self::solo(2, Instructions::Avx2),
            Self::solo(2, Instructions::Portable),
            exact,
        ]
    }

    /// Those that round to 8 bits, for operations that have products.
    pub(crate) fn kinds_of_bytes() -> [Self; 3] {
        [Instructions::Best, Instructions::Avx512, Instructions::Portable]
            .map(|kind| Self::that_rounds(2, kind, Rounding::Bytes))
    }
}

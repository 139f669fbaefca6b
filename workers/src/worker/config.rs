//! What the server tells a worker at its start.

use std::path::PathBuf;
use std::time::Duration;

use kernels::KvDType;
use serde::{Deserialize, Serialize};

use crate::models::WeightOptions;

/// Where a rank computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DeviceChoice {
    /// Nowhere: it answers whatever it is asked, after a pause of this length.
    Null(Duration),
    /// On the processor.
    Cpu,
    /// On the GPU of its own number.
    Cuda(CudaChoice),
}

/// How a rank uses its GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CudaChoice {
    /// Whether activations are f32, and not bf16.
    pub f32: bool,
    /// Whether no step is recorded to be repeated.
    pub eager: bool,
    /// Whether NCCL does small all-reduces, too.
    pub nccl_only: bool,
    /// Whether own kernels compute all matrix products, though NVIDIA's library may be there.
    pub own_products: bool,
    /// The share of its memory to use, `0..=1`.
    pub memory_share: f64,
    /// Where compiled kernels are kept.
    pub kernel_cache: Option<PathBuf>,
    /// Where prebuilt ones lie.
    pub kernels: Option<PathBuf>,
}

/// All that a worker is told: one line of JSON on its standard input. The rest of that pipe stays silent; its end
/// means that the server is gone, and the worker goes too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// This worker's index, `0..world_size`.
    pub rank: usize,
    /// How many ranks share the model.
    pub world_size: usize,
    /// How often the group was started before.
    pub epoch: u64,
    /// Instance name of the shared-memory segments (see `link::shm`).
    pub link: String,
    /// A GGUF file or a Hugging Face folder.
    pub model: PathBuf,
    /// How weights are taken.
    pub weights: WeightOptions,
    /// Where it computes.
    pub device: DeviceChoice,
    /// Longest sequence, tokens.
    pub max_model_len: usize,
    /// Most tokens in a step.
    pub batch_tokens_max: usize,
    /// Most sequences in a step.
    pub sequences_max: usize,
    /// Most tokens of a sequence's draft in a step.
    pub draft_max: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV cache: memory for it on this rank, bytes; on a GPU at most, for there may be less …
    pub kv_cache_bytes: u64,
    /// … or its number of blocks, decided by the user.
    pub kv_blocks: Option<usize>,
    /// On the CPU whether activations are rounded to 8 bits where weights are quantized, and not to 16.
    pub activation_bytes: bool,
    /// Storage format of keys and values.
    pub kv_dtype: KvDType,
    /// On the CPU a file that the KV cache is to lie in, so that it outlives this process; none: in its own memory.
    pub kv_memory: Option<PathBuf>,
    /// Compute threads of this rank.
    pub threads: usize,
    /// On the CPU the cores to pin them to, one per thread; beside a GPU those that all threads keep to; empty: any.
    pub cores: Vec<usize>,
    /// Whether every rank's threads have a core of their own, so that waiting within a step may spin.
    pub spin: bool,
}

impl WorkerConfig {
    /// Most places in a step where a token is chosen: behind each sequence, and behind each token of its draft.
    pub fn choices_max(&self) -> usize {
        self.sequences_max.saturating_mul(1 + self.draft_max).min(self.batch_tokens_max)
    }
}

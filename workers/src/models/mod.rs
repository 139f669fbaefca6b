//! The model families: one short file each and one line in the table.

mod check;
mod config;
mod decoder;
mod deepseek;
mod ernie45;
mod ernie45_moe;
mod family;
mod from_gguf;
mod from_json;
mod gemma3;
mod glm4;
mod glm4_moe;
mod gpt_oss;
mod llama;
mod minicpm;
mod mistral;
mod options;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;

pub use check::check;
pub use config::{BranchNorms, Latent, ModelConfig, Moe};
pub use family::Family;
pub(crate) use options::Role;
pub use options::{LoadOptions, PlainType, Quantization, WeightOptions};
pub use rope::{Rope, Scaling, Yarn};

use decoder::Decoder;
use kernels::{Backend, KvDType, KvShape, memory::Memory};

use crate::{
    layers::{Branch, Purpose, Shard, Source},
    weights::{Checkpoint, LoadError},
};

/// Every family that Shardwire knows.
pub const FAMILIES: [&Family; 14] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &ernie45::FAMILY,
    &ernie45_moe::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &qwen3_moe::FAMILY,
    &deepseek::V3,
    &deepseek::V2,
    &glm4::FAMILY,
    &glm4_moe::FAMILY,
    &gemma3::FAMILY,
    &gpt_oss::FAMILY,
    &minicpm::FAMILY,
];

/// The longest sequence that a model is loaded for, tokens.
const MODEL_LEN_MAX: usize = 1 << 24;

/// One rank's shard of a model, on its device.
pub trait Model<B: Backend>: Send {
    /// The batch through all layers, the same on all ranks. Its keys and values enter `cache`. All ranks must be called
    /// with the same batch.
    fn forward(&self, device: &B, batch: &B::Batch, cache: &mut B::KvCache) -> kernels::Result<HiddenStates<B>>;

    /// Hidden states after the last norm, the same on all ranks: `[rows, hidden size]`. All ranks must be called with the
    /// same rows.
    fn normed(&self, device: &B, hidden: HiddenStates<B>) -> kernels::Result<B::Tensor>;

    /// This rank's columns of the logits of `normed` rows, `[rows, columns]`. Of all ranks' columns side by side, the first
    /// [`ModelConfig::vocab_size`] are the tokens'; where ranks do not divide the vocabulary, up to `world_size - 1` columns
    /// of padding follow, to be ignored.
    fn logits(&self, device: &B, normed: &B::Tensor) -> kernels::Result<B::Tensor>;

    /// Bytes of this rank's matrices, as they are stored.
    fn weight_bytes(&self) -> u64;
}

/// What the layers leave of a batch: the residual stream and the last layer's output, not yet added to it. Norm and head
/// come after it, for the rows that somebody wants: only of those the ranks add their parts of that output.
pub struct HiddenStates<M: Memory> {
    /// `[tokens, hidden size]`.
    residual: M::Tensor,
    /// None in a model without layers.
    branch: Option<Branch<M>>,
}

impl<B: Backend> HiddenStates<B> {
    /// Those of some rows, in their order.
    pub fn select(&self, device: &B, rows: &[u32]) -> kernels::Result<Self> {
        let branch = self.branch.as_ref().map(|branch| branch.select(device, rows)).transpose()?;
        Ok(Self { residual: device.select_rows(&self.residual, rows)?, branch })
    }
}

/// Puts a rank's shard of the checkpoint on `device`, telling `progress` the share done, `0..=1`.
pub fn load<B: Backend>(
    device: &B,
    checkpoint: &Checkpoint,
    shard: Shard,
    options: LoadOptions,
    progress: &mut dyn FnMut(f32),
) -> Result<Box<dyn Model<B>>, LoadError> {
    check::split(checkpoint, shard.world_size, options.weights)?;
    if !(1..=MODEL_LEN_MAX).contains(&options.max_model_len) {
        let fault =
            format!("a maximum length of {} tokens is not between 1 and {MODEL_LEN_MAX}", options.max_model_len);
        return Err(LoadError::config(checkpoint.path(), fault));
    }
    let source = Source::new(device, checkpoint, shard, options, Purpose::Load);
    Ok(Box::new(Decoder::load(&source, options, progress)?))
}

/// The KV cache that a rank's shard of a model needs.
pub fn kv_shape(config: &ModelConfig, shard: Shard, block_size: usize, blocks: usize, dtype: KvDType) -> KvShape {
    let (kv_heads, head_dim, values_from) = match &config.latent {
        None => (shard.heads(config).heads().kv, config.head_dim, None),
        // The latent vector is the same for all heads, so every rank has it.
        Some(latent) => (1, latent.heads(1).key(), Some(latent.rope_dim)),
    };
    KvShape { layers: config.layers, blocks, block_size, kv_heads, head_dim, values_from, dtype }
}

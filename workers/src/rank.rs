//! One rank's share of the work: it follows the steps, computes its shard of the model, and learns what was sampled.

use kernels::{Backend, Batch, DeviceError, KvShape};
use thiserror::Error;

use crate::batch::Plan;
use crate::kv_cache::blocks_in;
use crate::layers::Shard;
use crate::link::{
    report::{Outcome, SampledToken},
    step::{SequenceId, Step},
};
use crate::models::{self, LoadOptions, Model};
use crate::sampler::{Sampler, SamplerError};
use crate::sequences::{Limits, Sequences, StepError};
use crate::weights::{Checkpoint, LoadError};
use crate::worker::config::WorkerConfig;

/// What the broadcast says of a sequence that got no token: no vocabulary is that large.
const NO_TOKEN: u32 = u32::MAX;

/// A loaded shard and the sequences that run on it.
pub struct Rank<B: Backend> {
    device: B,
    model: Box<dyn Model<B>>,
    cache: B::KvCache,
    cache_shape: KvShape,
    sequences: Sequences,
    sampler: Sampler,
    samples: bool,
    last_step: u64,
}

/// A rank that cannot go on.
#[derive(Debug, Error)]
pub enum RankError {
    /// The server's step makes no sense.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The device failed, or another rank is gone.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A sequence's logits make no sense.
    #[error("sequence {}: {source}", .id.0)]
    Sampler {
        /// Whose logits.
        id: SequenceId,
        /// What is wrong with them.
        source: SamplerError,
    },
}

impl<B: Backend> Rank<B> {
    /// Puts the shard that `config` names on `device`, telling `progress` the share of it done, `0..=1`.
    pub fn load(device: B, config: &WorkerConfig, progress: &mut dyn FnMut(f32)) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::open(&config.model)?;
        let shard = Shard { rank: config.rank, world_size: config.world_size };
        let options = LoadOptions { max_model_len: config.max_model_len };
        let model = models::load(&device, &checkpoint, shard, options, progress)?;
        let cache_shape = cache_shape(&checkpoint, shard, config)?;
        let limits = Limits {
            vocab_size: checkpoint.config().vocab_size,
            max_model_len: config.max_model_len,
            batch_tokens_max: config.batch_tokens_max,
            sequences_max: config.sequences_max,
            block_size: config.block_size,
            kv_blocks: cache_shape.blocks,
        };
        Ok(Self {
            cache: device.kv_cache(cache_shape)?,
            device,
            model,
            cache_shape,
            sequences: Sequences::new(limits),
            sampler: Sampler::default(),
            samples: config.rank == 0,
            last_step: 0,
        })
    }

    /// The size of its KV cache.
    pub fn cache_shape(&self) -> &KvShape {
        &self.cache_shape
    }

    /// Memory of weights and KV cache, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.model.weight_bytes() + (self.cache_shape.blocks * self.cache_shape.block_bytes()) as u64
    }

    /// Where it computes.
    pub fn device(&self) -> &B {
        &self.device
    }

    /// Follows one step, all ranks together. Each sampling chunk's token, in the order of the batch; log-probabilities on
    /// rank 0 only.
    pub fn compute(&mut self, step: &Step) -> Result<Vec<SampledToken>, RankError> {
        let Plan { batch, sampled } = self.learn(step)?;
        let logits = self.forward(batch)?;
        self.sample(&sampled, logits)
    }

    /// Takes over what the step says.
    pub fn learn(&mut self, step: &Step) -> Result<Plan, RankError> {
        let expected = self.last_step + 1;
        if step.number != expected {
            return Err(StepError::Number { found: step.number, expected }.into());
        }
        self.last_step = step.number;
        Ok(Plan::of(step, &mut self.sequences)?)
    }

    /// The logits of the batch's sampled rows; none where there is nothing to compute.
    pub fn forward(&mut self, batch: Batch) -> Result<Option<B::Tensor>, RankError> {
        if batch.tokens.is_empty() {
            return Ok(None);
        }
        let batch = self.device.batch(batch)?;
        Ok(Some(self.model.forward(&self.device, &batch, &mut self.cache)?))
    }

    /// Chooses the next token of each of `ids` on rank 0, and appends it to its sequence on every rank.
    pub fn sample(&mut self, ids: &[SequenceId], logits: Option<B::Tensor>) -> Result<Vec<SampledToken>, RankError> {
        let mut sampled = match logits {
            Some(logits) if self.samples => self.choose(ids, &self.device.to_host(&logits)?)?,
            _ => ids.iter().map(|&id| SampledToken { id, outcome: Outcome::NothingLeft }).collect(),
        };
        let mut tokens: Vec<u32> = sampled.iter().map(|sampled| sampled.outcome.token().unwrap_or(NO_TOKEN)).collect();
        self.device.broadcast(&mut tokens)?;
        for (sampled, &token) in sampled.iter_mut().zip(&tokens).filter(|&(_, &token)| token != NO_TOKEN) {
            self.sequences.append(sampled.id, token)?;
            if !self.samples {
                sampled.outcome = Outcome::Chosen { token, logprobs: None, confident: false };
            }
        }
        Ok(sampled)
    }

    /// `logits` are `[sampled rows, columns]`, padding behind the vocabulary.
    fn choose(&mut self, ids: &[SequenceId], logits: &[f32]) -> Result<Vec<SampledToken>, RankError> {
        let vocab_size = self.sequences.limits().vocab_size;
        let columns = logits.len().checked_div(ids.len()).unwrap_or(0);
        let choose = |(row, &id): (usize, &SequenceId)| {
            let sequence = self.sequences.get(id)?;
            let logits = &logits[row * columns..][..vocab_size];
            let choice = self.sampler.sample(logits, &sequence.sampling, sequence.history());
            let choice = choice.map_err(|source| RankError::Sampler { id, source })?;
            Ok(SampledToken {
                id,
                outcome: Outcome::Chosen { token: choice.token, logprobs: choice.logprobs, confident: false },
            })
        };
        ids.iter().enumerate().map(choose).collect()
    }
}

/// As many blocks as were asked for, or as fit.
fn cache_shape(checkpoint: &Checkpoint, shard: Shard, config: &WorkerConfig) -> Result<KvShape, LoadError> {
    let shape = |blocks| models::kv_shape(checkpoint.config(), shard, config.block_size, blocks, config.kv_dtype);
    let blocks = config.kv_blocks.unwrap_or_else(|| blocks_in(&shape(0), config.kv_cache_bytes));
    if blocks == 0 || config.block_size == 0 {
        let (bytes, block_bytes) = (config.kv_cache_bytes, shape(0).block_bytes());
        let fault = format!("no room for a KV cache: {bytes} bytes for it, {block_bytes} for a block of it");
        return Err(LoadError::config(checkpoint.path(), fault));
    }
    Ok(shape(blocks))
}

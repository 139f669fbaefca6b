//! One rank's share of the work: it follows the steps, computes its shard of the model, and learns what was sampled.

mod choose;
mod prompts;

use std::{iter, time::Instant};

use kernels::choose::{Ask, Draw};
use kernels::{Backend, Batch, DeviceError, KvShape};
use thiserror::Error;

use crate::batch::{Plan, Wanted};
use crate::kv_cache::blocks_in;
use crate::layers::Shard;
use crate::link::{
    LinkError,
    report::StepReport,
    step::{SequenceId, Step},
};
use crate::masks::Masks;
use crate::models::{self, HiddenStates, LoadOptions, Model};
use crate::sampler::{Sampler, SamplerError};
use crate::sequences::{Limits, Sequences, StepError};
use crate::weights::{Checkpoint, LoadError};
use crate::worker::config::{DeviceChoice, WorkerConfig};

/// A loaded shard and the sequences that run on it.
pub struct Rank<B: Backend> {
    device: B,
    model: Box<dyn Model<B>>,
    cache: B::KvCache,
    cache_shape: KvShape,
    sequences: Sequences,
    sampler: Sampler,
    /// Whether this is the rank that chooses tokens and reports.
    reports: bool,
    last_step: u64,
    /// The step whose tokens the device is choosing.
    choosing: Option<Choosing<B>>,
}

/// A step of which everything is enqueued, and nothing known yet.
struct Choosing<B: Backend> {
    step: u64,
    /// Who gets tokens, in the order of the choice: once for each place where one is chosen.
    ids: Vec<SequenceId>,
    choice: B::Choice,
}

/// A step whose forward pass was begun.
pub struct Begun<B: Backend> {
    step: u64,
    wanted: Wanted,
    computed: Computed<B>,
    at: Instant,
}

/// What a forward pass has come to.
enum Computed<B: Backend> {
    /// There was nothing to compute.
    Nothing,
    /// The batch's hidden states.
    HiddenStates(HiddenStates<B>),
    /// This rank's columns of the logits of its rows, and maybe of more that mean nothing.
    Logits(B::Tensor),
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
    /// The mask ring.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Ranks that chose by the same logits chose differently: they would go on with different sequences.
    #[error("sequence {}: this rank chose token {own}, and rank 0 chose {first}", .id.0)]
    Disagreed {
        /// Which sequence.
        id: SequenceId,
        /// This rank's token.
        own: u32,
        /// Rank 0's.
        first: u32,
    },
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
        let checkpoint = Checkpoint::open_with(&config.model, config.weights)?;
        let shard = Shard { rank: config.rank, world_size: config.world_size };
        let options =
            LoadOptions { max_model_len: config.max_model_len, threads: config.threads, weights: config.weights };
        let model = models::load(&device, &checkpoint, shard, options, progress)?;
        let room = match &config.device {
            DeviceChoice::Null(_) | DeviceChoice::Cpu => None,
            DeviceChoice::Cuda(choice) => warm_up(&device, &*model, &checkpoint, config, choice.memory_share)?,
        };
        let cache_shape = cache_shape(&checkpoint, shard, config, room)?;
        let limits = limits(config, &checkpoint, cache_shape.blocks);
        Ok(Self {
            cache: device.kv_cache(cache_shape)?,
            device,
            model,
            cache_shape,
            sequences: Sequences::new(limits),
            sampler: Sampler::default(),
            reports: config.rank == 0,
            last_step: 0,
            choosing: None,
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

    /// Follows one step, all ranks together. What came of it, as rank 0 reports it; the other ranks know the tokens only.
    pub fn compute(&mut self, step: &Step, masks: &mut Masks) -> Result<StepReport, RankError> {
        let begun = self.begin(step)?;
        match self.conclude(begun, masks)? {
            Some(report) => Ok(report),
            None => self.settle(),
        }
    }

    /// Takes over what the step says, and has its batch go through the layers, and through the head where nothing but
    /// tokens is wanted. Devices that run by themselves have only begun when this returns. The tokens of the step before
    /// need not be known: see [`Rank::is_choosing`].
    pub fn begin(&mut self, step: &Step) -> Result<Begun<B>, RankError> {
        let expected = self.last_step + 1;
        if step.number != expected {
            return Err(StepError::Number { found: step.number, expected }.into());
        }
        self.last_step = step.number;
        let Plan { batch, wanted } = Plan::of(step, &mut self.sequences)?;
        let at = Instant::now();
        let computed = self.forward(batch, &wanted)?;
        Ok(Begun { step: step.number, wanted, computed, at })
    }

    fn forward(&mut self, batch: Batch, wanted: &Wanted) -> Result<Computed<B>, RankError> {
        if batch.tokens.is_empty() {
            return Ok(Computed::Nothing);
        }
        let Self { device, model, cache, .. } = self;
        if !wanted.is_a_token_per_row(batch.tokens.len()) {
            let batch = device.batch(batch)?;
            return Ok(Computed::HiddenStates(model.forward(device, &batch, cache)?));
        }
        let mut compute = |batch: &B::Batch| {
            let hidden = model.forward(device, batch, cache)?;
            model.logits(device, &model.normed(device, hidden)?)
        };
        Ok(Computed::Logits(device.repeat(batch, &mut compute)?))
    }

    /// All that is wanted of a step that was begun, and no other is [choosing](Rank::is_choosing). Tokens come last, so
    /// that masks have the longest time to come. None where the device chooses all of them, which [`Rank::settle`] waits
    /// for.
    pub fn conclude(&mut self, begun: Begun<B>, masks: &mut Masks) -> Result<Option<StepReport>, RankError> {
        let Begun { step, wanted, computed, at } = begun;
        let mut report = StepReport { step, ..StepReport::default() };
        masks.retain(|id| self.sequences.get(id).is_ok());
        masks.receive()?;
        let shard = match computed {
            Computed::Nothing => None,
            Computed::Logits(shard) => Some(shard),
            Computed::HiddenStates(hidden) => {
                let rows: Vec<u32> = wanted.sampled.iter().map(|place| place.row).collect();
                let shard = if rows.is_empty() { None } else { Some(self.logits(&hidden, &rows)?) };
                report.prompt_logprobs = self.score(&wanted.scored, &hidden)?;
                report.embeddings = self.pool(&wanted.pooled, &hidden)?;
                shard
            }
        };
        let Some(shard) = shard else { return Ok(Some(report)) };
        if wanted.is_tokens_only() && self.begin_choice(step, &wanted, &shard)? {
            return Ok(None);
        }
        let logits = self.device.all_gather(shard)?;
        report.tokens = self.sample(&wanted, &logits, masks, at)?;
        Ok(Some(report))
    }

    /// Whether a concluded step's tokens are not known yet: the device is choosing them. The next step may begin, and is
    /// computed as if they were; they are to be [settled](Rank::settle) before it is concluded.
    pub fn is_choosing(&self) -> bool {
        self.choosing.is_some()
    }

    /// Whether [`Rank::settle`] would not wait long.
    pub fn is_chosen(&self) -> Result<bool, RankError> {
        Ok(self.choosing.as_ref().map_or(Ok(true), |choosing| self.device.is_chosen(&choosing.choice))?)
    }

    /// `[rows.len(), columns]`: this rank's columns.
    fn logits(&self, hidden: &HiddenStates<B>, rows: &[u32]) -> Result<B::Tensor, RankError> {
        let normed = self.model.normed(&self.device, hidden.select(&self.device, rows)?)?;
        Ok(self.model.logits(&self.device, &normed)?)
    }
}

/// The largest step that there can be, with nothing in it, and then decoding steps, the largest first: so that kernels are
/// compiled and the memory for activations is taken before the rest of it is given to the KV cache; that rest, bytes.
fn warm_up<B: Backend>(
    device: &B,
    model: &dyn Model<B>,
    checkpoint: &Checkpoint,
    config: &WorkerConfig,
    memory_share: f64,
) -> Result<Option<u64>, LoadError> {
    let WorkerConfig { rank, world_size, block_size, batch_tokens_max, .. } = *config;
    let longest = batch_tokens_max.min(config.max_model_len);
    let batch = Batch::sample(batch_tokens_max, longest, block_size);
    let shard = Shard { rank, world_size };
    let blocks = batch.block_tables.iter().map(Vec::len).sum();
    let shape = models::kv_shape(checkpoint.config(), shard, block_size, blocks, config.kv_dtype);
    let choices_max = config.choices_max();
    let mut cache = device.kv_cache(shape)?;
    let mut compute = |batch: Batch, rows: usize| -> Result<B::Tensor, LoadError> {
        let rows: Vec<u32> = (0..rows as u32).collect();
        let hidden = model.forward(device, &device.batch(batch)?, &mut cache)?;
        Ok(model.logits(device, &model.normed(device, hidden.select(device, &rows)?)?)?)
    };
    let logits = device.all_gather(compute(batch, choices_max)?)?;
    let draw = Draw { temperature: 1.0, top_k: 0, top_p: 0.5, min_p: 0.0, uniform: 0.5 };
    let asks: Vec<Ask> = (0..choices_max).map(|row| Ask { row, draw: Some(draw) }).collect();
    device.choose(&logits, checkpoint.config().vocab_size, &asks)?;
    device.to_host(&logits)?;
    drop(logits);
    // Kernels differ by how many rows they take.
    let further = [16, 1].into_iter().filter(|&rows| rows < choices_max);
    for rows in iter::once(choices_max).chain(further) {
        compute(Batch::alike(rows), rows)?;
    }
    drop(cache);
    Ok(device.room(memory_share)?)
}

/// What steps must keep to.
pub(crate) fn limits(config: &WorkerConfig, checkpoint: &Checkpoint, kv_blocks: usize) -> Limits {
    Limits {
        vocab_size: checkpoint.config().vocab_size,
        max_model_len: config.max_model_len,
        batch_tokens_max: config.batch_tokens_max,
        sequences_max: config.sequences_max,
        draft_max: config.draft_max,
        block_size: config.block_size,
        kv_blocks,
    }
}

/// As many blocks as were asked for, or as fit.
pub(crate) fn cache_shape(
    checkpoint: &Checkpoint,
    shard: Shard,
    config: &WorkerConfig,
    room: Option<u64>,
) -> Result<KvShape, LoadError> {
    let shape = |blocks| models::kv_shape(checkpoint.config(), shard, config.block_size, blocks, config.kv_dtype);
    let bytes = room.map_or(config.kv_cache_bytes, |room| room.min(config.kv_cache_bytes));
    let blocks = config.kv_blocks.unwrap_or_else(|| blocks_in(&shape(0), bytes));
    if blocks == 0 || config.block_size == 0 {
        let block_bytes = shape(0).block_bytes();
        let fault = format!("no room for a KV cache: {bytes} bytes for it, {block_bytes} for a block of it");
        return Err(LoadError::config(checkpoint.path(), fault));
    }
    Ok(shape(blocks))
}

//! How large the rings are: every frame that the engine's bounds allow must fit.

use workers::{
    link::{
        sampling::{BAD_WORDS_TOKENS_MAX, LOGIT_BIAS_MAX, LOGPROBS_MAX, STOP_TOKENS_MAX},
        server::LinkConfig,
        step::{EMBEDDINGS_MAX, SCORED_MAX},
    },
    meeting_bytes,
    worker::WorkerConfig,
};

/// What of a model decides how much crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSizes {
    /// Tokens that it knows: the length of a mask.
    pub vocab_size: usize,
    /// Elements of a hidden state: the length of an embedding.
    pub hidden_size: usize,
}

/// What the link of one start is made of.
pub fn link_config(worker: &WorkerConfig, model: ModelSizes, epoch: u64) -> LinkConfig {
    LinkConfig {
        world_size: worker.world_size,
        epoch,
        // Half of a ring is the largest frame it carries.
        step_ring_bytes: 2 * step_bytes_max(worker),
        return_ring_bytes: 2 * report_bytes_max(worker, model),
        mask_ring_bytes: mask_ring_bytes(worker, model),
        meeting_bytes: meeting_bytes(worker.world_size),
        // The ranks have all cores: while the server spun, a rank would wait for its own.
        spin: false,
    }
}

/// Bytes that a number takes at most in a frame (bincode's variable encoding of a u32).
const NUMBER_BYTES_MAX: usize = 5;

/// Bytes that the numbers of a mask beside its words take at most.
const MASK_HEAD_BYTES_MAX: usize = 64;

/// The most that masks are given room for, bytes. Whoever publishes more of them at once waits until rank 0 takes some.
const MASKS_BYTES_MAX: usize = 16 << 20;

/// Numbers of the lists that a sequence's sampling may have, at most: a bias is two, and a bad word has a length, too.
const SAMPLING_NUMBERS_MAX: usize = STOP_TOKENS_MAX + 2 * LOGIT_BIAS_MAX + 2 * BAD_WORDS_TOKENS_MAX;

/// Bytes of one position's log-probabilities beside their list, at most.
const LOGPROBS_HEAD_BYTES_MAX: usize = 16;

/// Bytes of a sequence or of a sampled token beside its lists; generously.
const RECORD_BYTES_MAX: usize = 1024;

/// The largest step. The engine introduces at most one sequence of full length with all that its sampling may list, or
/// several that have no more together (`Limits::introduced_tokens_max`); with each block's worth of tokens travels its
/// block.
fn step_bytes_max(worker: &WorkerConfig) -> usize {
    let tokens = worker.max_model_len.max(worker.batch_tokens_max).saturating_add(SAMPLING_NUMBERS_MAX);
    let blocks = tokens / worker.block_size.max(1) + worker.sequences_max;
    let drafted = worker.choices_max();
    let numbers = tokens.saturating_add(blocks).saturating_add(drafted).saturating_mul(NUMBER_BYTES_MAX);
    numbers.saturating_add(worker.sequences_max.saturating_mul(RECORD_BYTES_MAX))
}

/// The largest report: every sequence, and at every place where a token is chosen all the log-probabilities it may ask for,
/// id and value each; besides, as many scored positions and embeddings as a step may have.
fn report_bytes_max(worker: &WorkerConfig, model: ModelSizes) -> usize {
    let logprobs = (LOGPROBS_MAX as usize + 1) * (NUMBER_BYTES_MAX + size_of::<f32>());
    let scored = worker.batch_tokens_max.min(SCORED_MAX) * (LOGPROBS_HEAD_BYTES_MAX + logprobs);
    let embeddings = worker.sequences_max.min(EMBEDDINGS_MAX).saturating_mul(model.hidden_size * size_of::<f32>());
    let tokens = worker.sequences_max.saturating_mul(RECORD_BYTES_MAX);
    let chosen = worker.choices_max().saturating_mul(LOGPROBS_HEAD_BYTES_MAX + logprobs);
    tokens.saturating_add(chosen).saturating_add(scored).saturating_add(embeddings)
}

/// Room for one mask of each sequence; for two in any case, since a frame takes up half of a ring at most.
fn mask_ring_bytes(worker: &WorkerConfig, model: ModelSizes) -> usize {
    let mask = MASK_HEAD_BYTES_MAX + model.vocab_size.div_ceil(u32::BITS as usize) * NUMBER_BYTES_MAX;
    worker.sequences_max.saturating_mul(mask).min(MASKS_BYTES_MAX).max(2 * mask)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use workers::{
        KvDType,
        link::{
            mask::{Allowed, TokenMask},
            report::{Embedding, Logprobs, Outcome, PromptLogprobs, SampledTokens, StepReport},
            sampling::{SEED_MAX, Sampling},
            server::ServerLink,
            step::{Chunk, NewSequence, SequenceId, Step},
        },
        models::WeightOptions,
        worker::DeviceChoice,
    };

    use super::*;

    fn config(max_model_len: usize, batch_tokens_max: usize, sequences_max: usize, draft_max: usize) -> WorkerConfig {
        WorkerConfig {
            kv_memory: None,
            rank: 0,
            world_size: 1,
            weights: WeightOptions::default(),
            epoch: 0,
            link: String::new(),
            model: PathBuf::new(),
            device: DeviceChoice::Cpu,
            max_model_len,
            batch_tokens_max,
            sequences_max,
            draft_max,
            block_size: 1,
            kv_cache_bytes: 0,
            kv_blocks: None,
            activation_bytes: false,
            kv_dtype: KvDType::F32,
            threads: 1,
            cores: Vec::new(),
            spin: false,
        }
    }

    const MODEL: ModelSizes = ModelSizes { vocab_size: 128_256, hidden_size: 4096 };

    /// The largest step, report and mask of a configuration, published through a link made for it.
    fn check(worker: WorkerConfig) {
        let mut link = ServerLink::create(&link_config(&worker, MODEL, 0)).unwrap();
        let each = worker.max_model_len.max(worker.batch_tokens_max) / worker.sequences_max;
        let ids = || (0..worker.sequences_max as u64).map(|n| SequenceId(u64::MAX - n));
        let sampling = Sampling { seed: SEED_MAX, stop_token_ids: vec![u32::MAX; 64], ..Sampling::default() };
        let mut started: Vec<_> = ids()
            .map(|id| {
                let (tokens, sampling) = (vec![u32::MAX; each], sampling.clone());
                NewSequence { id, tokens, prompt_length: u32::MAX, sampling, pooling: None }
            })
            .collect();
        started[0].sampling = Sampling {
            stop_token_ids: vec![u32::MAX; STOP_TOKENS_MAX],
            logit_bias: vec![(u32::MAX, 0.5); LOGIT_BIAS_MAX],
            bad_words: vec![vec![u32::MAX]; BAD_WORDS_TOKENS_MAX],
            ..sampling
        };
        let batch = ids().map(|id| {
            let new_blocks = vec![u32::MAX; each + 1];
            let draft = vec![u32::MAX; worker.choices_max() / worker.sequences_max];
            Chunk { id, start: u32::MAX, count: u32::MAX, new_blocks, samples: true, draft, ..Chunk::default() }
        });
        let step = Step { number: 1, finished: ids().collect(), started, batch: batch.collect() };
        link.steps.publish(&step, Duration::ZERO).unwrap();

        let top = vec![(u32::MAX, 0.5); LOGPROBS_MAX as usize];
        let entry = Logprobs { sampled: 0.5, rank: u32::MAX, top };
        let chosen = Outcome::Chosen { token: u32::MAX, logprobs: Some(entry.clone()), confident: true };
        let places = worker.choices_max().div_ceil(worker.sequences_max);
        let tokens = ids().map(|id| SampledTokens { id, outcomes: vec![chosen.clone(); places] });
        let scored = worker.batch_tokens_max.min(SCORED_MAX).div_ceil(worker.sequences_max);
        let scores = |id| PromptLogprobs { id, entries: vec![entry.clone(); scored] };
        let embedding = |id| Embedding { id, values: vec![0.5; MODEL.hidden_size] };
        let report = StepReport {
            step: u64::MAX,
            tokens: tokens.collect(),
            prompt_logprobs: ids().map(scores).collect(),
            embeddings: ids().take(EMBEDDINGS_MAX).map(embedding).collect(),
        };
        let mut frame = Vec::new();
        workers::link::codec::encode(&report, &mut frame);
        assert!(frame.len() <= report_bytes_max(&worker, MODEL), "{} bytes", frame.len());

        let allowed = Allowed::Bits(vec![u32::MAX; MODEL.vocab_size.div_ceil(32)]);
        for id in ids().take(700) {
            let mask = TokenMask { id, position: u32::MAX, allowed: allowed.clone() };
            link.masks.publish(&mask, Duration::ZERO).unwrap();
        }
    }

    #[test]
    fn the_largest_frames_fit_their_rings() {
        check(config(1, 1, 1, 0));
        check(config(4096, 512, 1, 0));
        check(config(4096, 512, 1, 16));
        check(config(4096, 512, 64, 0));
        check(config(4096, 512, 64, 16));
        check(config(16, 8192, 256, 5));
    }
}

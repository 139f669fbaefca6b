//! How large the rings are: every frame that the engine's bounds allow must fit.

use workers::{
    link::{
        sampling::{LOGPROBS_MAX, STOP_TOKENS_MAX},
        server::LinkConfig,
    },
    meeting_bytes,
    worker::WorkerConfig,
};

/// What the link of one start is made of.
pub fn link_config(worker: &WorkerConfig, epoch: u64) -> LinkConfig {
    LinkConfig {
        world_size: worker.world_size,
        epoch,
        // Half of a ring is the largest frame it carries.
        step_ring_bytes: 2 * step_bytes_max(worker),
        return_ring_bytes: 2 * report_bytes_max(worker),
        meeting_bytes: meeting_bytes(worker.world_size),
        // The ranks have all cores: while the server spun, a rank would wait for its own.
        spin: false,
    }
}

/// Bytes that a number takes at most in a frame (bincode's variable encoding of a u32).
const NUMBER_BYTES_MAX: usize = 5;

/// Bytes of a sequence or of a sampled token beside its lists; generously.
const RECORD_BYTES_MAX: usize = 1024;

/// The largest step. The engine introduces at most one sequence of full length with all its stop tokens, or several that
/// have no more together (`Limits::introduced_tokens_max`); with each block's worth of tokens travels its block.
fn step_bytes_max(worker: &WorkerConfig) -> usize {
    let tokens = worker.max_model_len.max(worker.batch_tokens_max).saturating_add(STOP_TOKENS_MAX);
    let blocks = tokens / worker.block_size.max(1) + worker.sequences_max;
    let numbers = tokens.saturating_add(blocks).saturating_mul(NUMBER_BYTES_MAX);
    numbers.saturating_add(worker.sequences_max.saturating_mul(RECORD_BYTES_MAX))
}

/// The largest report: every sequence with all the log-probabilities it may ask for, id and value each.
fn report_bytes_max(worker: &WorkerConfig) -> usize {
    let logprobs = (LOGPROBS_MAX as usize + 1) * (NUMBER_BYTES_MAX + size_of::<f32>());
    worker.sequences_max.saturating_mul(RECORD_BYTES_MAX + logprobs)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use workers::{
        KvDType,
        link::{
            report::{Logprobs, Outcome, SampledToken, StepReport},
            sampling::{SEED_MAX, Sampling},
            server::ServerLink,
            step::{Chunk, NewSequence, SequenceId, Step},
        },
    };

    use super::*;

    fn config(max_model_len: usize, batch_tokens_max: usize, sequences_max: usize) -> WorkerConfig {
        WorkerConfig {
            rank: 0,
            world_size: 1,
            epoch: 0,
            link: String::new(),
            model: PathBuf::new(),
            max_model_len,
            batch_tokens_max,
            sequences_max,
            block_size: 1,
            kv_cache_bytes: 0,
            kv_blocks: None,
            kv_dtype: KvDType::F32,
            threads: 1,
            cores: Vec::new(),
            spin: false,
        }
    }

    /// The largest step and the largest report of a configuration, published through a link made for it.
    fn check(worker: WorkerConfig) {
        let mut link = ServerLink::create(&link_config(&worker, 0)).unwrap();
        let each = worker.max_model_len.max(worker.batch_tokens_max) / worker.sequences_max;
        let ids = || (0..worker.sequences_max as u64).map(|n| SequenceId(u64::MAX - n));
        let sampling = Sampling { seed: SEED_MAX, stop_token_ids: vec![u32::MAX; 64], ..Sampling::default() };
        let started = ids().map(|id| {
            let (tokens, sampling) = (vec![u32::MAX; each], sampling.clone());
            NewSequence { id, tokens, prompt_length: u32::MAX, sampling, pooling: None }
        });
        let batch = ids().map(|id| {
            let new_blocks = vec![u32::MAX; each + 1];
            Chunk { id, start: u32::MAX, count: u32::MAX, new_blocks, samples: true, ..Chunk::default() }
        });
        let step = Step { number: 1, finished: ids().collect(), started: started.collect(), batch: batch.collect() };
        link.steps.publish(&step, Duration::ZERO).unwrap();

        let top = vec![(u32::MAX, 0.5); LOGPROBS_MAX as usize];
        let tokens = ids().map(|id| SampledToken {
            id,
            outcome: Outcome::Chosen {
                token: u32::MAX,
                logprobs: Some(Logprobs { sampled: 0.5, rank: u32::MAX, top: top.clone() }),
                confident: true,
            },
        });
        let report = StepReport { step: u64::MAX, tokens: tokens.collect(), ..StepReport::default() };
        let mut frame = Vec::new();
        workers::link::codec::encode(&report, &mut frame);
        assert!(frame.len() <= report_bytes_max(&worker), "{} bytes", frame.len());
    }

    #[test]
    fn the_largest_frames_fit_their_rings() {
        check(config(1, 1, 1));
        check(config(4096, 512, 1));
        check(config(4096, 512, 64));
        check(config(16, 8192, 256));
    }
}

//! No device at all: every step is checked and laid out like any other and answered at once, or after a pause that stands
//! for a device's work; each sequence by its own prompt, over and over. What a token then takes is what server and link take
//! (`shardwire bench overhead`).

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use kernels::group::Group;

use super::{Ends, REPORT_TIMEOUT, TAKE_TIMEOUT, WorkerConfig, WorkerError};
use crate::batch::{Plan, Scored, Wanted};
use crate::child;
use crate::layers::Shard;
use crate::link::report::{Embedding, Logprobs, Outcome, PromptLogprobs, SampledTokens, StepReport};
use crate::link::step::Step;
use crate::link::vitals::{Phase, RankState};
use crate::rank::{self, RankError};
use crate::sequences::{Sequences, StepError};
use crate::weights::Checkpoint;

/// Takes step after step, and answers on rank 0.
pub(super) fn answer(
    config: &WorkerConfig,
    pause: Duration,
    mut ends: Ends<'_>,
    group: &Group,
) -> Result<Infallible, WorkerError> {
    let vitals = ends.vitals;
    vitals.device("null");
    let checkpoint = Checkpoint::open_with(&config.model, config.weights)?;
    let shard = Shard { rank: config.rank, world_size: config.world_size };
    let blocks = rank::cache_shape(&checkpoint, shard, config, None)?.blocks;
    let mut sequences = Sequences::new(rank::limits(config, &checkpoint, blocks));
    vitals.loading(1.0);
    vitals.kv_blocks(blocks);
    vitals.memory(child::resident_bytes(), 0);
    group.barrier()?;
    vitals.phase(Phase::Idle);
    vitals.state(RankState::Ready);
    loop {
        ends.masks.receive()?;
        let Some(step) = ends.steps.take(TAKE_TIMEOUT)? else { continue };
        let began = Instant::now();
        vitals.progress(step.number);
        vitals.phase(Phase::Forward);
        let (report, tokens) = follow(&step, &mut sequences).map_err(RankError::from)?;
        // As long as it has to be, whatever came before: who sleeps nothing yields nothing.
        if let Some(left) = pause.checked_sub(began.elapsed()) {
            thread::sleep(left);
        }
        vitals.phase(Phase::Report);
        if let Some(reports) = &mut ends.reports {
            reports.publish(&report, REPORT_TIMEOUT)?;
        }
        vitals.step_done(began.elapsed(), tokens);
        vitals.phase(Phase::Idle);
    }
}

/// What a step is answered, and how many tokens it had.
fn follow(step: &Step, sequences: &mut Sequences) -> Result<(StepReport, usize), StepError> {
    let Plan { batch, wanted } = Plan::of(step, sequences)?;
    let nothing = Logprobs { sampled: 0.0, rank: 0, top: Vec::new() };
    let scores = |scored: &Scored| PromptLogprobs { id: scored.id, entries: vec![nothing.clone(); scored.rows.len()] };
    let pooled = wanted.pooled.iter().filter(|pooled| pooled.ends);
    let report = StepReport {
        step: step.number,
        tokens: choose(&wanted, sequences)?,
        prompt_logprobs: wanted.scored.iter().map(scores).collect(),
        embeddings: pooled.map(|pooled| Embedding { id: pooled.id, values: vec![1.0] }).collect(),
    };
    Ok((report, batch.tokens.len()))
}

fn choose(wanted: &Wanted, sequences: &mut Sequences) -> Result<Vec<SampledTokens>, StepError> {
    let mut all = Vec::with_capacity(wanted.chunks);
    for places in wanted.sampled.chunk_by(|one, other| one.id == other.id) {
        let id = places[0].id;
        let sequence = sequences.get(id)?;
        let next = |length: usize| sequence.tokens[length % sequence.prompt_length];
        let tokens: Vec<u32> = places.iter().map(|place| next(place.length)).collect();
        let right = sequences.decide(id, &tokens)?;
        sequences.append(id, tokens[right])?;
        all.push(SampledTokens { id, outcomes: tokens[..=right].iter().copied().map(Outcome::chosen).collect() });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::step::{Chunk, NewSequence, SequenceId};
    use crate::sequences::Limits;

    #[test]
    fn a_sequence_says_its_prompt_again_and_again() {
        let limits = Limits {
            vocab_size: 100,
            max_model_len: 40,
            batch_tokens_max: 20,
            sequences_max: 4,
            draft_max: 2,
            block_size: 16,
            kv_blocks: 4,
        };
        let mut sequences = Sequences::new(limits);
        let new = NewSequence { id: SequenceId(1), tokens: vec![7, 8, 9], prompt_length: 3, ..NewSequence::default() };
        let chunk = |start, count, draft: &[u32]| Chunk {
            id: SequenceId(1),
            start,
            count,
            new_blocks: if start == 0 { vec![2] } else { Vec::new() },
            samples: true,
            draft: draft.to_vec(),
            ..Chunk::default()
        };
        let mut tell = |number, started: &[NewSequence], chunk| {
            let step = Step { number, started: started.to_vec(), batch: vec![chunk], ..Step::default() };
            let (report, tokens) = follow(&step, &mut sequences).expect("a good step");
            (report.tokens[0].outcomes.iter().filter_map(Outcome::token).collect::<Vec<_>>(), tokens)
        };
        assert_eq!(tell(1, &[new], chunk(0, 3, &[])), (vec![7], 3));
        assert_eq!(tell(2, &[], chunk(3, 1, &[8, 1])), (vec![8, 9], 3));
        assert_eq!(tell(3, &[], chunk(5, 1, &[])), (vec![7], 1));
    }
}

//! The next tokens: chosen by rank 0, learned by all.

use kernels::Backend;

use super::{Rank, RankError};
use crate::batch::Wanted;
use crate::link::mask::Allowed;
use crate::link::report::{Outcome, SampledToken};
use crate::link::step::SequenceId;
use crate::masks::{Awaited, Grace, Masks};

/// What the broadcast says of a sequence for which no token is left; no vocabulary is that large.
const NOTHING_LEFT: u32 = u32::MAX;

/// What it says of one whose mask is missing.
const DEFERRED: u32 = u32::MAX - 1;

impl<B: Backend> Rank<B> {
    /// Chooses the next tokens on rank 0, by `logits [sampled rows (or more), columns]`, and appends them on every rank.
    pub(super) fn sample(
        &mut self,
        wanted: &Wanted,
        logits: &B::Tensor,
        masks: &mut Masks,
    ) -> Result<Vec<SampledToken>, RankError> {
        let chosen = if self.reports { self.choose(wanted, logits, masks)? } else { Vec::new() };
        let mut words: Vec<u32> = chosen.iter().map(|sampled| word(&sampled.outcome)).collect();
        words.resize(wanted.sampled.len(), NOTHING_LEFT);
        self.device.broadcast(&mut words)?;
        let mut learned = Vec::with_capacity(words.len());
        for (&(id, _), &word) in wanted.sampled.iter().zip(&words) {
            learned.push(SampledToken { id, outcome: self.learn_outcome(id, word)? });
        }
        Ok(if self.reports { chosen } else { learned })
    }

    fn learn_outcome(&mut self, id: SequenceId, word: u32) -> Result<Outcome, RankError> {
        Ok(match word {
            NOTHING_LEFT => Outcome::NothingLeft,
            DEFERRED => {
                self.sequences.defer(id)?;
                Outcome::Deferred
            }
            token => {
                self.sequences.append(id, token)?;
                Outcome::Chosen { token, logprobs: None, confident: false }
            }
        })
    }

    fn choose(
        &mut self,
        wanted: &Wanted,
        logits: &B::Tensor,
        masks: &mut Masks,
    ) -> Result<Vec<SampledToken>, RankError> {
        let logits = self.device.rows_to_host(logits, wanted.sampled.len())?;
        self.await_masks(wanted, masks)?;
        let columns = logits.len() / wanted.sampled.len();
        let mut chosen = Vec::with_capacity(wanted.sampled.len());
        for (&(id, _), row) in wanted.sampled.iter().zip(logits.chunks_exact(columns)) {
            chosen.push(SampledToken { id, outcome: self.outcome(id, row, masks)? });
        }
        Ok(chosen)
    }

    fn outcome(&mut self, id: SequenceId, row: &[f32], masks: &mut Masks) -> Result<Outcome, RankError> {
        let sequence = self.sequences.get(id)?;
        let allowed = match sequence.awaited(id).map(|awaited| masks.find(awaited)) {
            None => Allowed::All,
            Some(None) => return Ok(Outcome::Deferred),
            Some(Some(allowed)) => allowed,
        };
        let logits = &row[..self.sequences.limits().vocab_size];
        let choice = self.sampler.sample(logits, &sequence.sampling, sequence.history(), &allowed);
        Ok(match choice.map_err(|source| RankError::Sampler { id, source })? {
            None => Outcome::NothingLeft,
            Some(choice) => {
                Outcome::Chosen { token: choice.token, logprobs: choice.logprobs, confident: choice.confident }
            }
        })
    }

    fn await_masks(&self, wanted: &Wanted, masks: &mut Masks) -> Result<(), RankError> {
        let sampled = wanted.sampled.iter().filter_map(|&(id, _)| self.sequences.get(id).ok()?.awaited(id));
        let awaited: Vec<Awaited> = sampled.collect();
        let grace = |missing| match missing == wanted.chunks {
            true => Grace::Alone,
            false => Grace::Shared(self.began.elapsed()),
        };
        Ok(masks.collect(&awaited, grace)?)
    }
}

/// An outcome as the broadcast tells it.
fn word(outcome: &Outcome) -> u32 {
    match *outcome {
        Outcome::Chosen { token, .. } => token,
        Outcome::Deferred => DEFERRED,
        Outcome::NothingLeft => NOTHING_LEFT,
    }
}

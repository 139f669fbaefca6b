//! The next tokens: chosen by rank 0, learned by all.

use std::ops::Range;

use kernels::{Backend, DeviceError, choose::Chosen};

use super::{Rank, RankError};
use crate::batch::Wanted;
use crate::link::mask::Allowed;
use crate::link::report::{Outcome, SampledToken};
use crate::link::step::SequenceId;
use crate::masks::{Awaited, Grace, Masks};
use crate::sampler::{self, SamplerError};

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
        let mut outcomes = self.chosen_by_device(wanted, logits)?;
        // The host waits for masks only when the logits are there.
        let copy = |rows: Range<usize>| Ok((rows.start, rows.len(), self.device.rows_to_host(logits, rows)?));
        let copied = left(&outcomes).into_iter().map(copy).collect::<Result<Vec<_>, DeviceError>>()?;
        self.await_masks(wanted, masks)?;
        for (first, count, logits) in copied {
            for (row, logits) in (first..).zip(logits.chunks_exact(logits.len() / count)) {
                outcomes[row] = Some(self.outcome(wanted.sampled[row].0, logits, masks)?);
            }
        }
        let ids = wanted.sampled.iter().map(|&(id, _)| id);
        Ok(ids.zip(outcomes).filter_map(|(id, outcome)| Some(SampledToken { id, outcome: outcome? })).collect())
    }

    /// What the device chooses, so that only the other rows of the logits need to go to the host.
    fn chosen_by_device(&self, wanted: &Wanted, logits: &B::Tensor) -> Result<Vec<Option<Outcome>>, RankError> {
        let mut outcomes = vec![None; wanted.sampled.len()];
        let mut asks = Vec::new();
        for (row, &(id, _)) in wanted.sampled.iter().enumerate() {
            let sequence = self.sequences.get(id)?;
            asks.extend(sampler::ask(row, &sequence.sampling, sequence.history()));
        }
        let chosen = self.device.choose(logits, self.sequences.limits().vocab_size, &asks)?;
        for (ask, chosen) in asks.iter().zip(chosen.into_iter().flatten()) {
            outcomes[ask.row] = Some(match chosen {
                Chosen::Token(token) => Outcome::Chosen { token, logprobs: None, confident: false },
                Chosen::NotFinite { token, value } => {
                    let source = SamplerError::NotFinite { token: token as usize, value };
                    return Err(RankError::Sampler { id: wanted.sampled[ask.row].0, source });
                }
            });
        }
        Ok(outcomes)
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

/// Runs of rows that nothing was chosen by yet.
fn left(outcomes: &[Option<Outcome>]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for row in (0..outcomes.len()).filter(|&row| outcomes[row].is_none()) {
        match runs.last_mut().filter(|run| run.end == row) {
            Some(run) => run.end += 1,
            None => runs.push(row..row + 1),
        }
    }
    runs
}

/// An outcome as the broadcast tells it.
fn word(outcome: &Outcome) -> u32 {
    match *outcome {
        Outcome::Chosen { token, .. } => token,
        Outcome::Deferred => DEFERRED,
        Outcome::NothingLeft => NOTHING_LEFT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_left_are_runs() {
        let check = |word: &str, expected: &[Range<usize>]| {
            let outcomes: Vec<_> = word.chars().map(|row| (row == 'x').then_some(Outcome::NothingLeft)).collect();
            assert_eq!(left(&outcomes), expected, "{word}");
        };
        check("", &[]);
        check("xx", &[]);
        check("...", std::slice::from_ref(&(0..3)));
        check(".xx..x.", &[0..1, 3..5, 6..7]);
    }
}

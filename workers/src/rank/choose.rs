//! The next tokens: chosen by rank 0 and learned by all; or, where a choice needs nothing but logits and devices choose,
//! by every rank's device.

use std::ops::Range;
use std::time::Instant;

use kernels::choose::{Ask, Chosen};
use kernels::{Backend, DeviceError};

use super::{Choosing, Rank, RankError};
use crate::batch::{Place, Wanted};
use crate::link::mask::Allowed;
use crate::link::report::{Outcome, SampledTokens, StepReport};
use crate::link::step::SequenceId;
use crate::masks::{Awaited, Grace, Masks};
use crate::sampler::{self, SamplerError};

/// What the broadcast says of a sequence for which no token is left; no vocabulary is that large.
const NOTHING_LEFT: u32 = u32::MAX;

/// What it says of one whose mask is missing.
const DEFERRED: u32 = u32::MAX - 1;

impl<B: Backend> Rank<B> {
    /// Has the device choose, if it can choose all tokens; then the step is [choosing](Rank::is_choosing).
    pub(super) fn begin_choice(&mut self, step: u64, wanted: &Wanted, shard: &B::Tensor) -> Result<bool, RankError> {
        assert!(self.choosing.is_none(), "the step before was settled");
        let asks = self.asks(wanted)?;
        if asks.len() < wanted.sampled.len() {
            return Ok(false);
        }
        let Some(choice) = self.device.begin_choice(shard, self.sequences.limits().vocab_size, &asks)? else {
            return Ok(false);
        };
        let ids: Vec<SequenceId> = wanted.sampled.iter().map(|place| place.id).collect();
        let mut chosen = 0;
        for places in ids.chunk_by(PartialEq::eq) {
            // How much of a draft is right, the host has to find out.
            if let &[id] = places {
                self.sequences.append_chosen(id, chosen)?;
            }
            chosen += places.len() as u32;
        }
        self.choosing = Some(Choosing { step, ids, choice });
        Ok(true)
    }

    /// Waits for the tokens that the device is choosing, and reports that step.
    ///
    /// # Panics
    /// If there is none.
    pub fn settle(&mut self) -> Result<StepReport, RankError> {
        let Choosing { step, ids, choice } = self.choosing.take().expect("a step is choosing");
        let mut tokens = Vec::with_capacity(ids.len());
        for (&id, chosen) in ids.iter().zip(self.device.chosen(choice)?) {
            tokens.push(token(id, chosen)?);
        }
        self.compare(&ids, &tokens)?;
        let mut report = StepReport { step, ..StepReport::default() };
        let mut tokens = tokens.as_slice();
        for places in ids.chunk_by(PartialEq::eq) {
            let (id, own) = (places[0], tokens.split_off(..places.len()).unwrap_or_default());
            let outcomes = match own {
                &[token] => {
                    self.sequences.learn(id, token)?;
                    vec![Outcome::chosen(token)]
                }
                own => self.learn(id, own)?,
            };
            report.tokens.push(SampledTokens { id, outcomes });
        }
        Ok(report)
    }

    /// All ranks have chosen by the same numbers. The device computes the next step meanwhile, so that this costs nothing.
    fn compare(&self, ids: &[SequenceId], own: &[u32]) -> Result<(), RankError> {
        let mut first = own.to_vec();
        self.device.broadcast(&mut first)?;
        let differs = ids.iter().zip(own).zip(&first).find(|((_, own), first)| own != first);
        differs.map_or(Ok(()), |((&id, &own), &first)| Err(RankError::Disagreed { id, own, first }))
    }

    /// Chooses the next tokens on rank 0, by `logits [sampled rows (or more), columns]`, and appends them on every rank.
    pub(super) fn sample(
        &mut self,
        wanted: &Wanted,
        logits: &B::Tensor,
        masks: &mut Masks,
        began: Instant,
    ) -> Result<Vec<SampledTokens>, RankError> {
        let chosen = if self.reports { self.choose(wanted, logits, masks, began)? } else { Vec::new() };
        let mut words: Vec<u32> = chosen.iter().map(word).collect();
        words.resize(wanted.sampled.len(), NOTHING_LEFT);
        self.device.broadcast(&mut words)?;
        let (mut words, mut chosen) = (words.as_slice(), chosen.into_iter());
        let mut told = Vec::with_capacity(wanted.chunks);
        for places in wanted.sampled.chunk_by(|one, other| one.id == other.id) {
            let (id, own) = (places[0].id, words.split_off(..places.len()).unwrap_or_default());
            let mut outcomes = self.learn(id, own)?;
            // Rank 0 knows more of them than their tokens.
            let known = chosen.by_ref().take(places.len());
            outcomes.iter_mut().zip(known.collect::<Vec<_>>()).for_each(|(outcome, known)| *outcome = known);
            told.push(SampledTokens { id, outcomes });
        }
        Ok(told)
    }

    /// Takes in what was chosen at each of a sequence's places, by their words, as far as its draft was right.
    fn learn(&mut self, id: SequenceId, words: &[u32]) -> Result<Vec<Outcome>, RankError> {
        let right = self.sequences.decide(id, words)?;
        let mut outcomes: Vec<Outcome> = words[..right].iter().copied().map(Outcome::chosen).collect();
        outcomes.push(match words[right] {
            NOTHING_LEFT => Outcome::NothingLeft,
            DEFERRED => {
                self.sequences.defer(id)?;
                Outcome::Deferred
            }
            token => {
                self.sequences.append(id, token)?;
                Outcome::chosen(token)
            }
        });
        Ok(outcomes)
    }

    fn choose(
        &mut self,
        wanted: &Wanted,
        logits: &B::Tensor,
        masks: &mut Masks,
        began: Instant,
    ) -> Result<Vec<Outcome>, RankError> {
        let mut outcomes = self.chosen_by_device(wanted, logits)?;
        // The host waits for masks only when the logits are there.
        let copy = |rows: Range<usize>| Ok((rows.start, rows.len(), self.device.rows_to_host(logits, rows)?));
        let copied = left(&outcomes).into_iter().map(copy).collect::<Result<Vec<_>, DeviceError>>()?;
        self.await_masks(wanted, masks, began)?;
        for (first, count, logits) in copied {
            for (row, logits) in (first..).zip(logits.chunks_exact(logits.len() / count)) {
                outcomes[row] = Some(match self.is_in_vain(wanted, row, &outcomes)? {
                    true => Outcome::NothingLeft,
                    false => self.outcome(wanted.sampled[row], logits, masks)?,
                });
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Whether nobody will ask what is chosen here: something else was chosen where the draft has its token before it.
    fn is_in_vain(&self, wanted: &Wanted, row: usize, outcomes: &[Option<Outcome>]) -> Result<bool, RankError> {
        let Place { id, length, .. } = wanted.sampled[row];
        let Some(before) = row.checked_sub(1).filter(|&before| wanted.sampled[before].id == id) else {
            return Ok(false);
        };
        let drafted = self.sequences.get(id)?.tokens[length - 1];
        Ok(outcomes[before].as_ref().and_then(Outcome::token) != Some(drafted))
    }

    /// What the device chooses, so that only the other rows of the logits need to go to the host.
    fn chosen_by_device(&self, wanted: &Wanted, logits: &B::Tensor) -> Result<Vec<Option<Outcome>>, RankError> {
        let mut outcomes = vec![None; wanted.sampled.len()];
        let asks = self.asks(wanted)?;
        let chosen = self.device.choose(logits, self.sequences.limits().vocab_size, &asks)?;
        for (ask, chosen) in asks.iter().zip(chosen.into_iter().flatten()) {
            let token = token(wanted.sampled[ask.row].id, chosen)?;
            outcomes[ask.row] = Some(Outcome::chosen(token));
        }
        Ok(outcomes)
    }

    /// What a device can choose of what is wanted.
    fn asks(&self, wanted: &Wanted) -> Result<Vec<Ask>, RankError> {
        let mut asks = Vec::new();
        for (row, &Place { id, length, .. }) in wanted.sampled.iter().enumerate() {
            let sequence = self.sequences.get(id)?;
            asks.extend(sampler::ask(row, &sequence.sampling, sequence.history(length)));
        }
        Ok(asks)
    }

    fn outcome(&mut self, place: Place, row: &[f32], masks: &mut Masks) -> Result<Outcome, RankError> {
        let Place { id, length, .. } = place;
        let sequence = self.sequences.get(id)?;
        let allowed = match sequence.awaited(id).map(|awaited| masks.find(awaited)) {
            None => Allowed::All,
            Some(None) => return Ok(Outcome::Deferred),
            Some(Some(allowed)) => allowed,
        };
        let logits = &row[..self.sequences.limits().vocab_size];
        let choice = self.sampler.sample(logits, &sequence.sampling, sequence.history(length), &allowed);
        Ok(match choice.map_err(|source| RankError::Sampler { id, source })? {
            None => Outcome::NothingLeft,
            Some(choice) => {
                Outcome::Chosen { token: choice.token, logprobs: choice.logprobs, confident: choice.confident }
            }
        })
    }

    fn await_masks(&self, wanted: &Wanted, masks: &mut Masks, began: Instant) -> Result<(), RankError> {
        let sampled = wanted.sampled.iter().filter_map(|place| self.sequences.get(place.id).ok()?.awaited(place.id));
        let awaited: Vec<Awaited> = sampled.collect();
        let grace = |missing| match missing == wanted.chunks {
            true => Grace::Alone,
            false => Grace::Shared(began.elapsed()),
        };
        Ok(masks.collect(&awaited, grace)?)
    }
}

/// The token that a device has chosen for a sequence.
fn token(id: SequenceId, chosen: Chosen) -> Result<u32, RankError> {
    match chosen {
        Chosen::Token(token) => Ok(token),
        Chosen::NotFinite { token, value } => {
            let source = SamplerError::NotFinite { token: token as usize, value };
            Err(RankError::Sampler { id, source })
        }
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

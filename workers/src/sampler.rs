//! Logits → token: a pure function of (logits, parameters, seed, position, and the mask of who is guided).
//!
//! In this order: biases; penalties; what is forbidden (stop tokens while `min_tokens` is not reached, bad words, all that
//! a guide does not allow); the greedy shortcut; temperature; min-p; top-k; top-p over what remains; one draw. Ties go to
//! the smaller id everywhere, so a replay is exact.

mod ask;
mod bans;
mod logprobs;
mod penalties;
mod random;

use kernels::choose::{
    Distribution, Draw,
    rows::{argmax, maximum, not_finite},
};
use thiserror::Error;

use crate::link::{
    mask::Allowed,
    report::Logprobs,
    sampling::{Sampling, TEMPERATURE_MIN},
};
pub use ask::ask;
use bans::Bans;
use penalties::Penalties;

/// Chooses tokens; keeps its scratch memory between calls and nothing else.
#[derive(Default)]
pub struct Sampler {
    /// Changed logits, `[vocabulary]`.
    scores: Vec<f32>,
    penalties: Penalties,
    distribution: Distribution,
}

/// A sequence so far, as its next token depends on it.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// Prompt and generated tokens.
    pub tokens: &'a [u32],
    /// How many of them are the prompt.
    pub prompt_length: usize,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Where the parameters ask for them.
    pub logprobs: Option<Logprobs>,
    /// Whether the model itself held the token for more likely than the parameters' threshold, where there is one.
    pub confident: bool,
}

/// Logits that nothing can be chosen from: the model's fault, or its weights'.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SamplerError {
    /// Arithmetic went wrong in the forward pass.
    #[error("the logit of token {token} is {value}")]
    NotFinite {
        /// The first such token.
        token: usize,
        /// Its logit.
        value: f32,
    },
}

impl<'a> History<'a> {
    fn generated(self) -> &'a [u32] {
        &self.tokens[self.prompt_length.min(self.tokens.len())..]
    }
}

impl Sampler {
    /// The token that follows `history`, by its logits `[vocabulary]`; none where all are forbidden. `allowed` is a guide's
    /// word, [`Allowed::All`] where there is no guide.
    pub fn sample(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
        allowed: &Allowed,
    ) -> Result<Option<Choice>, SamplerError> {
        check_finite(logits)?;
        let bans = Bans::of(sampling, history, allowed);
        let found = match self.choose(logits, sampling, history, &bans) {
            // The guide has come to its end: it wins over `min_tokens`.
            None if bans.may_contradict() => self.choose(logits, sampling, history, &bans.without_stop_tokens()),
            found => found,
        };
        Ok(found.map(|token| Choice {
            token: token as u32,
            logprobs: sampling.logprobs.map(|count| self.logprobs(logits, token, count as usize, sampling)),
            confident: sampling.confidence_threshold.is_some_and(|least| logprobs::probability(logits, token) > least),
        }))
    }

    /// Log-probabilities of a `token` that is given, and of the `count` most likely ones, by its logits `[vocabulary]`.
    pub fn score(&self, logits: &[f32], token: usize, count: usize) -> Result<Logprobs, SamplerError> {
        check_finite(logits)?;
        Ok(logprobs::of(logits, token, count))
    }

    fn choose(&mut self, logits: &[f32], sampling: &Sampling, history: History<'_>, bans: &Bans<'_>) -> Option<usize> {
        let scores = change(&mut self.scores, &mut self.penalties, logits, sampling, history, bans);
        let best = argmax(scores).filter(|&best| scores[best] > f32::NEG_INFINITY)?;
        if sampling.is_greedy() {
            return Some(best);
        }
        let draw = draw(sampling, history);
        self.distribution.compute(scores, scores[best], &draw);
        Some(self.distribution.draw(draw.uniform))
    }

    /// Of the untouched distribution, unless the parameters want it shaped.
    fn logprobs(&mut self, logits: &[f32], token: usize, count: usize, sampling: &Sampling) -> Logprobs {
        let scales = sampling.temp_scaled_logprobs && sampling.temperature >= TEMPERATURE_MIN;
        let temperature = if scales { sampling.temperature } else { 1.0 };
        let top_p = if sampling.top_p_normalized_logprobs { sampling.top_p } else { 1.0 };
        if temperature == 1.0 && top_p == 1.0 {
            return logprobs::of(logits, token, count);
        }
        let shape = Draw { temperature, top_k: 0, top_p, min_p: 0.0, uniform: 0.0 };
        let greatest = maximum(logits);
        self.distribution.compute(logits, greatest, &shape);
        let log_total = self.distribution.log_total();
        // From the logits, not the weights: those of unlikely tokens are too small for an f32.
        let logprob = |index: usize| match self.distribution.may_draw(index) {
            true => (f64::from(logits[index] - greatest) / f64::from(temperature) - log_total) as f32,
            false => f32::NEG_INFINITY,
        };
        logprobs::by(logits, token, count, logprob)
    }
}

/// `logits` themselves where nothing applies, else changed ones; forbidden tokens have minus infinity.
fn change<'a>(
    scores: &'a mut Vec<f32>,
    penalties: &mut Penalties,
    logits: &'a [f32],
    sampling: &Sampling,
    history: History<'_>,
    bans: &Bans<'_>,
) -> &'a [f32] {
    if !penalties::apply_to(sampling) && bans.is_empty() {
        return logits;
    }
    scores.clear();
    scores.extend_from_slice(logits);
    penalties.apply(scores, sampling, history);
    bans.apply(scores);
    scores
}

fn check_finite(logits: &[f32]) -> Result<(), SamplerError> {
    not_finite(logits).map_or(Ok(()), |token| Err(SamplerError::NotFinite { token, value: logits[token] }))
}

/// How `sampling` draws the token that follows `history`.
fn draw(sampling: &Sampling, history: History<'_>) -> Draw {
    Draw {
        temperature: sampling.temperature,
        top_k: sampling.top_k as usize,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        uniform: random::uniform(sampling.seed, history.tokens.len() as u64),
    }
}

#[cfg(test)]
mod statistics;
#[cfg(test)]
mod tests;

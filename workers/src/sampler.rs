//! Logits → token: a pure function of (logits, parameters, seed, position).
//!
//! In this order: stop tokens masked while `min_tokens` is not reached; penalties; the greedy shortcut; temperature;
//! min-p; top-k; top-p over what remains; one draw. Ties go to the smaller id everywhere, so a replay is exact.

mod distribution;
mod logprobs;
mod penalties;
mod random;

use thiserror::Error;

use crate::link::{report::Logprobs, sampling::Sampling};
use distribution::Distribution;
use penalties::Penalties;

/// Chooses tokens; keeps its scratch memory between calls and nothing else.
#[derive(Default)]
pub struct Sampler {
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
    /// No logits, or `min_tokens` forbids every token there is.
    #[error("no token to choose from")]
    NothingLeft,
}

impl History<'_> {
    fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_length.min(self.tokens.len())..]
    }
}

impl Sampler {
    /// The token that follows `history`, by its logits `[vocabulary]`.
    pub fn sample(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        history: History<'_>,
    ) -> Result<Choice, SamplerError> {
        check_finite(logits)?;
        let scores = self.penalties.apply(logits, sampling, history);
        let best = argmax(scores).filter(|&best| scores[best] > f32::NEG_INFINITY).ok_or(SamplerError::NothingLeft)?;
        let token = if sampling.is_greedy() {
            best
        } else {
            self.distribution.compute(scores, scores[best], sampling);
            self.distribution.draw(random::uniform(sampling.seed, history.tokens.len() as u64))
        };
        let logprobs = sampling.logprobs.map(|count| logprobs::of(logits, token, count as usize));
        Ok(Choice { token: token as u32, logprobs })
    }
}

/// The sum is infinite or not a number if any logit is; unlike a search it is done many at a time.
fn check_finite(logits: &[f32]) -> Result<(), SamplerError> {
    let all_finite = logits.iter().fold(true, |fine, logit| fine & logit.is_finite());
    let fault = || logits.iter().position(|logit| !logit.is_finite());
    match (!all_finite).then(fault).flatten() {
        Some(token) => Err(SamplerError::NotFinite { token, value: logits[token] }),
        None => Ok(()),
    }
}

/// Index of the greatest value, the first of equals.
fn argmax(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 128;
    let mut best = (0, *values.first()?);
    for (index, chunk) in values.chunks(CHUNK).enumerate() {
        let greatest = maximum(chunk);
        if greatest > best.1 {
            best = (index, greatest);
        }
    }
    let start = best.0 * CHUNK;
    values[start..].iter().position(|&value| value == best.1).map(|offset| start + offset)
}

/// The greatest value, by 16 running maxima that the compiler keeps in registers.
fn maximum(values: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| greater(a, b))
}

#[cfg(test)]
mod tests;

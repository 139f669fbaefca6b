//! Tokens that must not be chosen: stop tokens that come too early, the ends of bad words, and all that a guide does not
//! allow.

use super::History;
use crate::link::{mask::Allowed, sampling::Sampling};

/// What is forbidden at one position.
pub(super) struct Bans<'a> {
    /// Stop tokens, while they are held back.
    stop_tokens: &'a [u32],
    bad_words: &'a [Vec<u32>],
    generated: &'a [u32],
    allowed: &'a Allowed,
}

impl<'a> Bans<'a> {
    /// Those that `sampling` and a guide give a sequence.
    pub(super) fn of(sampling: &'a Sampling, history: History<'a>, allowed: &'a Allowed) -> Self {
        let generated = history.generated();
        let too_early = generated.len() < sampling.min_tokens as usize;
        let stop_tokens = if too_early { &sampling.stop_token_ids[..] } else { &[] };
        Self { stop_tokens, bad_words: &sampling.bad_words, generated, allowed }
    }

    /// Whether everything may be chosen.
    pub(super) fn is_empty(&self) -> bool {
        self.stop_tokens.is_empty() && *self.allowed == Allowed::All && self.ends_of_bad_words().next().is_none()
    }

    /// Whether a guide and `min_tokens` may forbid everything together.
    pub(super) fn may_contradict(&self) -> bool {
        !self.stop_tokens.is_empty() && *self.allowed != Allowed::All
    }

    /// The same, with stop tokens no longer held back.
    pub(super) fn without_stop_tokens(self) -> Self {
        Self { stop_tokens: &[], ..self }
    }

    /// Forbidden tokens get minus infinity. Comes after all else that changes scores: nothing must lift a forbidden one.
    pub(super) fn apply(&self, scores: &mut [f32]) {
        for token in self.stop_tokens.iter().copied().chain(self.ends_of_bad_words()) {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
        match self.allowed {
            Allowed::All => {}
            Allowed::Only(tokens) => keep_only(scores, tokens),
            Allowed::Bits(words) => keep_bits(scores, words),
        }
    }

    /// The last tokens of the words of which everything before was just generated. The prompt does not count: what a
    /// client wrote itself is not said by the model.
    fn ends_of_bad_words(&self) -> impl Iterator<Item = u32> {
        let words = self.bad_words.iter().filter_map(|word| word.split_last());
        words.filter(|(_, before)| self.generated.ends_with(before)).map(|(&last, _)| last)
    }
}

/// Tokens beyond the vocabulary are nobody's; they are passed over.
fn keep_only(scores: &mut [f32], tokens: &[u32]) {
    let kept: Vec<(usize, f32)> =
        tokens.iter().filter_map(|&token| Some((token as usize, *scores.get(token as usize)?))).collect();
    scores.fill(f32::NEG_INFINITY);
    kept.into_iter().for_each(|(token, score)| scores[token] = score);
}

/// What is beyond the last word is forbidden.
fn keep_bits(scores: &mut [f32], words: &[u32]) {
    for (index, scores) in scores.chunks_mut(u32::BITS as usize).enumerate() {
        match words.get(index).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => scores.fill(f32::NEG_INFINITY),
            word => {
                let forbidden = scores.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
                forbidden.for_each(|(_, score)| *score = f32::NEG_INFINITY);
            }
        }
    }
}

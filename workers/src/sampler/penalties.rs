//! What changes logits before anything is chosen: stop tokens that come too early, and words said before.

use super::History;
use crate::link::sampling::Sampling;

/// No logit leaves this range by a penalty, so that differences stay finite.
const SCORE_MAX: f32 = 1e30;

/// Scratch memory for changed logits.
#[derive(Default)]
pub(super) struct Penalties {
    scores: Vec<f32>,
    /// How often each token was generated, `[vocabulary]`; all zero between calls.
    generated: Vec<u32>,
    /// Whether a token was dealt with, `[vocabulary]`; all false between calls.
    seen: Vec<bool>,
}

impl Penalties {
    /// `logits` themselves where nothing applies, else changed ones; masked tokens have minus infinity.
    pub(super) fn apply<'a>(&'a mut self, logits: &'a [f32], sampling: &Sampling, history: History<'_>) -> &'a [f32] {
        let masks = history.generated().len() < sampling.min_tokens as usize && !sampling.stop_token_ids.is_empty();
        let penalises = sampling.repetition_penalty != 1.0 || penalises_output(sampling);
        if !masks && !penalises {
            return logits;
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if penalises {
            self.penalise(sampling, history);
        }
        if masks {
            self.mask(&sampling.stop_token_ids);
        }
        &self.scores
    }

    /// Masking last: a penalty must not lift a forbidden token.
    fn mask(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    fn penalise(&mut self, sampling: &Sampling, history: History<'_>) {
        self.generated.resize(self.scores.len(), 0);
        self.seen.resize(self.scores.len(), false);
        for &token in history.generated() {
            if let Some(count) = self.generated.get_mut(token as usize) {
                *count += 1;
            }
        }
        for &token in history.tokens {
            if let Some(score) = self.scores.get_mut(token as usize)
                && !std::mem::replace(&mut self.seen[token as usize], true)
            {
                *score = penalised(*score, self.generated[token as usize], sampling);
            }
        }
        for &token in history.tokens {
            if let Some(count) = self.generated.get_mut(token as usize) {
                *count = 0;
                self.seen[token as usize] = false;
            }
        }
    }
}

fn penalises_output(sampling: &Sampling) -> bool {
    sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0
}

/// The score of a token that was in the prompt or generated `count` times.
fn penalised(score: f32, count: u32, sampling: &Sampling) -> f32 {
    let repetition = sampling.repetition_penalty;
    let score = if score > 0.0 { score / repetition } else { score * repetition };
    let presence = if count > 0 { sampling.presence_penalty } else { 0.0 };
    (score - presence - sampling.frequency_penalty * count as f32).clamp(-SCORE_MAX, SCORE_MAX)
}

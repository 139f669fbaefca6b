//! What changes logits before anything is chosen: biases, and words said before.

use super::History;
use crate::link::sampling::Sampling;

/// No logit leaves this range by a bias or a penalty, so that differences stay finite.
const SCORE_MAX: f32 = 1e30;

/// Scratch memory for counting.
#[derive(Default)]
pub(super) struct Penalties {
    /// How often each token was generated, `[vocabulary]`; all zero between calls.
    generated: Vec<u32>,
    /// Whether a token was dealt with, `[vocabulary]`; all false between calls.
    seen: Vec<bool>,
}

impl Penalties {
    /// Biases first: a penalty then scales what the client made of a logit, as it does in vLLM.
    pub(super) fn apply(&mut self, scores: &mut [f32], sampling: &Sampling, history: History<'_>) {
        for &(token, bias) in &sampling.logit_bias {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = (*score + bias).clamp(-SCORE_MAX, SCORE_MAX);
            }
        }
        if penalises(sampling) {
            self.penalise(scores, sampling, history);
        }
    }

    fn penalise(&mut self, scores: &mut [f32], sampling: &Sampling, history: History<'_>) {
        self.generated.resize(scores.len(), 0);
        self.seen.resize(scores.len(), false);
        for &token in history.generated() {
            if let Some(count) = self.generated.get_mut(token as usize) {
                *count += 1;
            }
        }
        for &token in history.tokens {
            if let Some(score) = scores.get_mut(token as usize)
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

/// Whether any of this changes anything.
pub(super) fn apply_to(sampling: &Sampling) -> bool {
    !sampling.logit_bias.is_empty() || penalises(sampling)
}

fn penalises(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0
}

/// The score of a token that was in the prompt or generated `count` times.
fn penalised(score: f32, count: u32, sampling: &Sampling) -> f32 {
    let repetition = sampling.repetition_penalty;
    let score = if score > 0.0 { score / repetition } else { score * repetition };
    let presence = if count > 0 { sampling.presence_penalty } else { 0.0 };
    (score - presence - sampling.frequency_penalty * count as f32).clamp(-SCORE_MAX, SCORE_MAX)
}

//! Log-probabilities, of the untouched distribution or of a shaped one.

use kernels::choose::rows::{argmax, exponentials, maximum, sum};

use crate::link::report::Logprobs;

/// Of `token`, and of the `count` most likely tokens, best first.
pub(super) fn of(logits: &[f32], token: usize, count: usize) -> Logprobs {
    let log_sum = log_sum_exp(logits);
    by(logits, token, count, |index| (f64::from(logits[index]) - log_sum) as f32)
}

/// As [`of`], each token's by `logprob`, which must not be greater for a smaller logit.
pub(super) fn by(logits: &[f32], token: usize, count: usize, logprob: impl Fn(usize) -> f32) -> Logprobs {
    let top = most_likely(logits, count).into_iter().map(|index| (index as u32, logprob(index)));
    Logprobs { sampled: logprob(token), rank: rank(logits, logits[token]), top: top.collect() }
}

/// How likely `token` is.
pub(super) fn probability(logits: &[f32], token: usize) -> f32 {
    (f64::from(logits[token]) - log_sum_exp(logits)).exp() as f32
}

/// How many tokens are more likely than one with this logit.
fn rank(logits: &[f32], own: f32) -> u32 {
    logits.iter().map(|&logit| u32::from(logit > own)).sum()
}

/// `ln Σ exp(logit)`.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = maximum(logits);
    let mut weights = vec![0.0; logits.len()];
    exponentials(logits, greatest, 1.0, &mut weights);
    f64::from(greatest) + sum(&weights).ln()
}

/// Indices of the `count` greatest logits, greatest first, the smaller index first among equals.
fn most_likely(logits: &[f32], count: usize) -> Vec<usize> {
    const CHUNK: usize = 128;
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    if count == 1 {
        return argmax(logits).into_iter().collect();
    }
    for (chunk_index, chunk) in logits.chunks(CHUNK).enumerate().take_while(|_| count > 0) {
        let enters = |best: &[usize], logit: f32| best.len() < count || logit > logits[best[count - 1]];
        if !enters(&best, maximum(chunk)) {
            continue;
        }
        for (offset, &logit) in chunk.iter().enumerate() {
            if enters(&best, logit) {
                let place = best.partition_point(|&index| logits[index] >= logit);
                best.insert(place, chunk_index * CHUNK + offset);
                best.truncate(count);
            }
        }
    }
    best
}

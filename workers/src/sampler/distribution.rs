//! From scores to a distribution over few or all tokens, and a draw from it.

use crate::link::sampling::Sampling;

/// The tokens that may be drawn, with weights that need not sum to one. Scratch memory is kept.
#[derive(Default)]
pub(super) struct Distribution {
    /// `exp((score - greatest) / temperature)`, `[vocabulary]`.
    weights: Vec<f32>,
    /// Tokens that a truncation left, the likeliest first, as [`key`]s.
    kept: Vec<u64>,
    /// Whether `kept` says what may be drawn, rather than every token.
    truncated: bool,
}

impl Distribution {
    /// Takes scores of which `greatest` is the greatest, and finite.
    pub(super) fn compute(&mut self, scores: &[f32], greatest: f32, sampling: &Sampling) {
        let Sampling { temperature, min_p, top_k, top_p, .. } = *sampling;
        self.weights.clear();
        self.weights.extend(scores.iter().map(|score| exp((score - greatest) / temperature)));
        let (cuts_tail, cuts_mass) = (min_p > 0.0 || (1..scores.len()).contains(&(top_k as usize)), top_p < 1.0);
        self.truncated = cuts_tail || cuts_mass;
        if cuts_tail {
            self.keep_above(min_p);
            self.keep_top_k(top_k as usize);
            self.keep_top_p(f64::from(top_p), self.kept.iter().map(|&key| weight(key)).sum());
        } else if cuts_mass {
            // All tokens up to this together weigh no more than what is to be left out, and most tokens are here.
            let total = sum(&self.weights);
            self.keep_above(((1.0 - f64::from(top_p)) * total / scores.len() as f64) as f32);
            self.keep_top_p(f64::from(top_p), total);
        }
        if self.truncated {
            self.kept.sort_unstable();
        }
    }

    /// The token at which the cumulated weights pass `uniform` (`0..1`) of their sum.
    pub(super) fn draw(&self, uniform: f64) -> usize {
        if self.truncated {
            let total: f64 = self.kept.iter().map(|&key| weight(key)).sum();
            let index = pass(self.kept.iter().map(|&key| weight(key)), uniform * total);
            return token(self.kept[index]);
        }
        const CHUNK: usize = 256;
        let sums: Vec<f64> = self.weights.chunks(CHUNK).map(sum).collect();
        let target = uniform * sums.iter().sum::<f64>();
        let chunk = pass(sums.iter().copied(), target);
        let before: f64 = sums[..chunk].iter().sum();
        let start = chunk * CHUNK;
        let weights = &self.weights[start..self.weights.len().min(start + CHUNK)];
        start + pass(weights.iter().map(|&weight| f64::from(weight)), target - before)
    }

    /// The logarithm of the sum of all weights that may be drawn.
    pub(super) fn log_total(&self) -> f64 {
        let kept = || self.kept.iter().map(|&key| weight(key)).sum();
        let total: f64 = if self.truncated { kept() } else { sum(&self.weights) };
        total.ln()
    }

    /// Whether no truncation left this token out.
    pub(super) fn may_draw(&self, token: usize) -> bool {
        !self.truncated || self.kept.last().is_some_and(|&least| key(token, self.weights[token]) <= least)
    }

    /// Fills `kept` with the tokens of more than this weight, and the likeliest in any case: its weight is one.
    fn keep_above(&mut self, floor: f32) {
        let keys = self.weights.iter().enumerate().filter(|&(_, &weight)| weight > floor || weight == 1.0);
        self.kept.clear();
        self.kept.extend(keys.map(|(token, &weight)| key(token, weight)));
    }

    fn keep_top_k(&mut self, top_k: usize) {
        if (1..self.kept.len()).contains(&top_k) {
            self.kept.select_nth_unstable(top_k - 1);
            self.kept.truncate(top_k);
        }
    }

    /// Keeps the fewest likeliest tokens whose share of `total` reaches `top_p`: halves the range that the last of them
    /// lies in, rather than sorting all.
    fn keep_top_p(&mut self, top_p: f64, total: f64) {
        if top_p >= 1.0 {
            return;
        }
        let mut missing = top_p * total;
        let (mut low, mut high) = (0, self.kept.len());
        while high - low > 1 {
            let middle = (high - low) / 2;
            self.kept[low..high].select_nth_unstable(middle);
            let mass: f64 = self.kept[low..low + middle].iter().map(|&key| weight(key)).sum();
            if mass >= missing {
                high = low + middle;
            } else {
                missing -= mass;
                low += middle;
            }
        }
        self.kept.truncate(high);
    }

    /// The tokens that may be drawn and their probabilities, the likeliest first.
    #[cfg(test)]
    pub(super) fn probabilities(&self) -> Vec<(usize, f64)> {
        let all = || self.weights.iter().enumerate().map(|(token, &weight)| key(token, weight)).collect();
        let mut keys: Vec<u64> = if self.truncated { self.kept.clone() } else { all() };
        keys.sort_unstable();
        let total: f64 = keys.iter().map(|&key| weight(key)).sum();
        keys.into_iter().map(|key| (token(key), weight(key) / total)).collect()
    }
}

/// Orders tokens: a greater weight first, then a smaller id. The bits of floats that are not negative ascend with them.
fn key(token: usize, weight: f32) -> u64 {
    u64::from(!weight.to_bits()) << 32 | token as u64
}

fn token(key: u64) -> usize {
    key as u32 as usize
}

fn weight(key: u64) -> f64 {
    f64::from(f32::from_bits(!((key >> 32) as u32)))
}

/// Index of the first weight with which the running sum exceeds `target`; where rounding lets none, the last that is
/// not zero.
fn pass(weights: impl Iterator<Item = f64>, target: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (index, weight) in weights.enumerate() {
        sum += weight;
        if weight > 0.0 {
            last = index;
        }
        if sum > target && weight > 0.0 {
            break;
        }
    }
    last
}

/// The sum in f64, by 8 running sums that the compiler keeps in registers.
pub(super) fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<8>();
    let mut lanes = [0f64; 8];
    for chunk in chunks {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&weight| f64::from(weight)).sum::<f64>()
}

/// `e^x` for `x <= 0`, within 2e-7 of its value, zero below -87; without a branch or a call, so that the compiler does
/// several at once. Range reduction as Cody & Waite (1980), then the series of `e^r` for `|r| <= ln 2 / 2`.
pub(super) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4; // 355/512: products with small integers are exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 × 2²³: adding it leaves no bits for a fraction
    let bounded = if x > -87.0 { x } else { -87.0 };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let exponent = shifted - ROUND;
    let r = bounded - exponent * LN2_HIGH - exponent * LN2_LOW;
    const SERIES: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let series = SERIES.iter().fold(1.0 / 5040.0, |sum, coefficient| sum * r + coefficient);
    // The low bits of `shifted` are the integer itself; moved up by 23 they are a float's exponent.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    if x > -87.0 { series * power } else { 0.0 }
}

//! From scores to a distribution over few or all tokens, and a draw from it, on the host.

use super::{
    Draw,
    rows::{exponentials, sum},
};

/// The tokens that may be drawn, with weights that need not sum to one. Scratch memory is kept.
#[derive(Default)]
pub struct Distribution {
    /// `exp((score - greatest) / temperature)`, `[vocabulary]`.
    weights: Vec<f32>,
    /// Tokens that a truncation left, the likeliest first, as [`key`]s.
    kept: Vec<u64>,
    /// Whether `kept` says what may be drawn, rather than every token.
    truncated: bool,
}

impl Distribution {
    /// Takes scores of which `greatest` is the greatest, and finite, to draw from them as `shape` says.
    pub fn compute(&mut self, scores: &[f32], greatest: f32, shape: &Draw) {
        let Draw { temperature, min_p, top_k, top_p, .. } = *shape;
        self.weights.resize(scores.len(), 0.0);
        exponentials(scores, greatest, temperature, &mut self.weights);
        let (cuts_tail, cuts_mass) = (min_p > 0.0 || (1..scores.len()).contains(&top_k), top_p < 1.0);
        self.truncated = cuts_tail || cuts_mass;
        if cuts_tail {
            self.keep_above(min_p);
            self.keep_top_k(top_k);
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
    pub fn draw(&self, uniform: f64) -> usize {
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
    pub fn log_total(&self) -> f64 {
        let kept = || self.kept.iter().map(|&key| weight(key)).sum();
        let total: f64 = if self.truncated { kept() } else { sum(&self.weights) };
        total.ln()
    }

    /// Whether no truncation left this token out.
    pub fn may_draw(&self, token: usize) -> bool {
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

    /// The tokens that may be drawn and their probabilities, the likeliest first: for whoever wants to see the whole
    /// distribution.
    pub fn probabilities(&self) -> Vec<(usize, f64)> {
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

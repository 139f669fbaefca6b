//! How many tokens a prompt or an answer has.

use rand::Rng;
use rand_distr::{Distribution, LogNormal};

/// Standard deviation of the logarithm: people's conversations have a few long prompts among many short ones. With it the
/// median is 0.61 times the mean, and one in a hundred has more than six times the mean.
const SIGMA: f64 = 1.0;
/// The longest, as a multiple of the mean.
const TIMES_MEAN_MAX: f64 = 8.0;
/// The shortest that is like a person's.
const TOKENS_MIN: f64 = 4.0;

/// A distribution of lengths, tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lengths {
    /// Evenly between `mean × (1 − ratio)` and `mean × (1 + ratio)`.
    Even {
        /// The mean.
        mean: u32,
        /// `0 <= ratio < 1`.
        ratio: f64,
    },
    /// As in people's conversations.
    LogNormal {
        /// The mean, but for what the bounds cut off.
        mean: u32,
        /// None is longer.
        max: u32,
    },
}

impl Lengths {
    /// The longest that can occur.
    pub fn longest(&self) -> u32 {
        match *self {
            Self::Even { mean, ratio } => even_bounds(mean, ratio).1,
            Self::LogNormal { mean, max } => max.min((f64::from(mean) * TIMES_MEAN_MAX) as u32).max(1),
        }
    }

    /// One of them, at least 1.
    pub fn sample(&self, rng: &mut impl Rng) -> u32 {
        match *self {
            Self::Even { mean, ratio } => {
                let (least, most) = even_bounds(mean, ratio);
                rng.random_range(least..=most)
            }
            Self::LogNormal { mean, .. } => {
                let mu = f64::from(mean).ln() - SIGMA * SIGMA / 2.0;
                // The deviation is a constant that is fine.
                let length = LogNormal::new(mu, SIGMA).map_or(f64::from(mean), |lengths| lengths.sample(rng));
                (length.max(TOKENS_MIN).round() as u32).min(self.longest())
            }
        }
    }
}

fn even_bounds(mean: u32, ratio: f64) -> (u32, u32) {
    let mean = f64::from(mean);
    let least = (mean * (1.0 - ratio)).round().max(1.0);
    (least as u32, (mean * (1.0 + ratio)).round().max(least) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn samples(lengths: Lengths, seed: u64) -> Vec<u32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..4000).map(|_| lengths.sample(&mut rng)).collect()
    }

    #[test]
    fn lengths_stay_within_their_bounds() {
        for (ratio, least, most) in [(0.0, 100, 100), (0.2, 80, 120), (0.999, 1, 200)] {
            let lengths = Lengths::Even { mean: 100, ratio };
            let found = samples(lengths, 1);
            assert_eq!((found.iter().min(), found.iter().max()), (Some(&least), Some(&most)), "{ratio}");
            assert_eq!(lengths.longest(), most);
        }
        assert_eq!(samples(Lengths::Even { mean: 1, ratio: 0.9 }, 1).iter().min(), Some(&1));
        let bounded = samples(Lengths::LogNormal { mean: 200, max: 300 }, 1);
        assert!(bounded.iter().all(|length| (4..=300).contains(length)) && bounded.contains(&300));
    }

    #[test]
    fn a_persons_lengths_are_unequal_around_their_mean() {
        let mut found = samples(Lengths::LogNormal { mean: 200, max: u32::MAX }, 7);
        let mean = f64::from(found.iter().sum::<u32>()) / found.len() as f64;
        found.sort();
        let median = f64::from(found[found.len() / 2]);
        assert!((180.0..220.0).contains(&mean) && (110.0..135.0).contains(&median), "{mean} {median}");
    }

    #[test]
    fn the_same_seed_gives_the_same_lengths() {
        for lengths in [Lengths::Even { mean: 100, ratio: 0.5 }, Lengths::LogNormal { mean: 100, max: 1000 }] {
            assert_eq!(samples(lengths, 3), samples(lengths, 3));
            assert_ne!(samples(lengths, 3), samples(lengths, 4));
        }
    }
}

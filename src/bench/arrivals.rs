//! When requests arrive that don't wait for one another.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Gamma};

/// Moments of so many arrivals, the first at 0: `per_second` of them in the mean, with pauses of a gamma distribution of the
/// shape `burstiness` (1: a Poisson process). Both are above 0 and `per_second` is finite.
pub fn arrivals(count: usize, per_second: f64, burstiness: f64, seed: u64) -> Vec<Duration> {
    let mut rng = StdRng::seed_from_u64(seed);
    let even = 1.0 / per_second;
    let pauses = Gamma::new(burstiness, even / burstiness).ok();
    let mut moment = 0.0;
    let next = |_| {
        let now = moment;
        // A shape beyond what can be computed with is that of a clock.
        moment += pauses.map_or(even, |pauses| pauses.sample(&mut rng));
        Duration::try_from_secs_f64(now).unwrap_or(Duration::MAX)
    };
    (0..count).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and coefficient of variation of the pauses, seconds.
    fn pauses(burstiness: f64) -> (f64, f64) {
        let moments = arrivals(20_000, 4.0, burstiness, 5);
        let pauses: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        let variance = pauses.iter().map(|pause| (pause - mean).powi(2)).sum::<f64>() / pauses.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn arrivals_have_their_rate_and_their_burstiness() {
        for (burstiness, variation) in [(1.0, 1.0), (0.25, 2.0), (100.0, 0.1)] {
            let (mean, found) = pauses(burstiness);
            assert!((mean / 0.25 - 1.0).abs() < 0.05, "{burstiness}: {mean}");
            assert!((found / variation - 1.0).abs() < 0.05, "{burstiness}: {found}");
        }
    }

    #[test]
    fn arrivals_begin_at_once_and_are_the_same_again() {
        let moments = arrivals(50, 2.0, 1.0, 1);
        assert_eq!(moments[0], Duration::ZERO);
        assert!(moments.is_sorted() && moments == arrivals(50, 2.0, 1.0, 1) && moments != arrivals(50, 2.0, 1.0, 2));
    }
}

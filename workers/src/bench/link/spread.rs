//! How long something took, many times.

use std::time::Duration;

/// The middle, the tail and the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The fastest.
    pub least: Duration,
    /// How many there were.
    pub count: usize,
}

impl Spread {
    /// Of one at least.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        // The smallest of them that so many do not exceed.
        let at = |hundredths: usize| times[(times.len() * hundredths).div_ceil(100).max(1) - 1];
        Self { p50: at(50), p99: at(99), least: times[0], count: times.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_was_measured() {
        let micros = |count: u64| (1..=count).rev().map(Duration::from_micros).collect::<Vec<_>>();
        for (count, p50, p99) in [(1, 1, 1), (2, 1, 2), (100, 50, 99), (1000, 500, 990)] {
            let [p50, p99, least] = [p50, p99, 1].map(Duration::from_micros);
            assert_eq!(Spread::of(micros(count)), Spread { p50, p99, least, count: count as usize });
        }
    }
}

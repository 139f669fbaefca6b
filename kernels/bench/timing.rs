//! How long something takes, by many runs of it.

use std::time::{Duration, Instant};

/// What the runs took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Half of the runs took no longer.
    pub median: Duration,
    /// The fastest run.
    pub least: Duration,
    /// How many there were.
    pub runs: usize,
}

/// So few runs are made, however little time there is.
const RUNS_MIN: usize = 3;
/// So many are enough.
const RUNS_MAX: usize = 20_000;

impl Timing {
    /// Runs once for what comes only the first time, then again and again until `time` has passed.
    pub fn measure(time: Duration, mut run: impl FnMut()) -> Self {
        run();
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.len() < RUNS_MIN || (times.len() < RUNS_MAX && begun.elapsed() < time) {
            let started = Instant::now();
            run();
            times.push(started.elapsed());
        }
        Self::of(times)
    }

    /// Of what the runs took, one at least.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { median: times[(times.len() - 1) / 2], least: times[0], runs: times.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timing_has_the_middle_and_the_least() {
        let of = |times: &[u64]| Timing::of(times.iter().copied().map(Duration::from_micros).collect());
        for (times, [median, least]) in [(&[5][..], [5, 5]), (&[9, 1], [1, 1]), (&[7, 100, 3], [7, 3])] {
            let [median, least] = [median, least].map(Duration::from_micros);
            assert_eq!(of(times), Timing { median, least, runs: times.len() });
        }
    }

    #[test]
    fn a_few_runs_are_made_without_any_time() {
        let mut runs = 0;
        assert_eq!(Timing::measure(Duration::ZERO, || runs += 1).runs, RUNS_MIN);
        assert_eq!(runs, 1 + RUNS_MIN);
    }
}

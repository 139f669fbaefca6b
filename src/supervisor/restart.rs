//! How often, and after what pause, a broken group is started again: a pure value, told the time by its caller.

use std::{collections::VecDeque, time::Duration};

/// Failures older than this are forgiven.
pub const WINDOW: Duration = Duration::from_secs(600);

/// The longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Counts failures of the group within [`WINDOW`] and decides about the next start.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    restarts_max: usize,
    failed_at: VecDeque<Duration>,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start the group again after this pause.
    RestartAfter(Duration),
    /// Too many failures within the window: stop everything.
    GiveUp,
}

impl RestartPolicy {
    /// Allows this many restarts within [`WINDOW`]; 0 gives up at the first failure.
    pub fn new(restarts_max: usize) -> Self {
        Self { restarts_max, failed_at: VecDeque::new() }
    }

    /// Notes a failure at `now` (measured from any fixed moment, never going back).
    pub fn failed(&mut self, now: Duration) -> Verdict {
        while self.failed_at.front().is_some_and(|&at| now.saturating_sub(at) > WINDOW) {
            self.failed_at.pop_front();
        }
        if self.failed_at.len() >= self.restarts_max {
            return Verdict::GiveUp;
        }
        let pause = pause_before(self.failed_at.len());
        self.failed_at.push_back(now);
        Verdict::RestartAfter(pause)
    }
}

/// 0, 0.5, 1, 2, 4, 8, 8 … seconds: the first failure is most likely a chance, so its clients need not wait.
fn pause_before(earlier_failures: usize) -> Duration {
    match earlier_failures {
        0 => Duration::ZERO,
        n => PAUSE_MAX.min(Duration::from_millis(500) * 2u32.saturating_pow((n - 1).min(16) as u32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(restarts_max: usize, failures_s: &[u64], expected: &[Option<u64>]) {
        let mut policy = RestartPolicy::new(restarts_max);
        let verdicts: Vec<_> = failures_s
            .iter()
            .map(|&at| match policy.failed(Duration::from_secs(at)) {
                Verdict::RestartAfter(pause) => Some(pause.as_millis() as u64),
                Verdict::GiveUp => None,
            })
            .collect();
        assert_eq!(verdicts, expected, "restarts_max {restarts_max}, failures at {failures_s:?} s");
    }

    #[test]
    fn pauses_grow_until_it_gives_up() {
        check(3, &[0, 1, 2, 3], &[Some(0), Some(500), Some(1000), None]);
        check(0, &[0], &[None]);
        let growing = [Some(0), Some(500), Some(1000), Some(2000), Some(4000), Some(8000), Some(8000), Some(8000)];
        check(9, &[0, 1, 2, 3, 4, 5, 6, 7], &growing);
    }

    #[test]
    fn old_failures_are_forgiven() {
        check(1, &[0, 601, 1202], &[Some(0), Some(0), Some(0)]);
        check(1, &[0, 600], &[Some(0), None]);
        check(2, &[0, 500, 700, 1101], &[Some(0), Some(500), Some(500), Some(500)]);
    }
}

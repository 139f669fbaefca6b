//! How often, and after what pause, a broken group is started again: a pure value, told the time by its caller.

use std::{collections::VecDeque, time::Duration};

/// Failures older than this are forgiven.
pub const WINDOW: Duration = Duration::from_secs(600);

/// The longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// A group that served for so long has served well: its failure stands alone.
const SERVED_WELL: Duration = Duration::from_secs(3);

/// How often a group dies of a sequence before that is given up.
const DEATHS_OF_ONE: usize = 2;

/// Counts failures of the group within [`WINDOW`] and decides about the next start.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    restarts_max: usize,
    failed_at: VecDeque<Duration>,
    /// Failures since a group last served well.
    in_a_row: usize,
    /// Sequences given up whose failures were forgiven.
    poisonous: u64,
}

/// What is known of a failure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failed {
    /// When: the time since any fixed moment, never going back.
    pub at: Duration,
    /// For how long the group had been ready and moved; nothing if it never did a step.
    pub served: Duration,
    /// Sequences given up before this failure, because groups died of them; since the start of the server.
    pub poisonous: u64,
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
        Self { restarts_max, failed_at: VecDeque::new(), in_a_row: 0, poisonous: 0 }
    }

    /// Notes a failure. One after good service begins a new row of pauses. It also proves that sequences given up before
    /// were at fault, and not the machine: the failures that each had cost are forgiven.
    pub fn failed(&mut self, Failed { at: now, served, poisonous }: Failed) -> Verdict {
        while self.failed_at.front().is_some_and(|&at| now.saturating_sub(at) > WINDOW) {
            self.failed_at.pop_front();
        }
        if served >= SERVED_WELL {
            self.in_a_row = 0;
            let forgiven = DEATHS_OF_ONE.saturating_mul(poisonous.saturating_sub(self.poisonous) as usize);
            self.failed_at.drain(self.failed_at.len().saturating_sub(forgiven)..);
            self.poisonous = poisonous;
        }
        if self.failed_at.len() >= self.restarts_max {
            return Verdict::GiveUp;
        }
        let pause = pause_before(self.in_a_row.min(self.failed_at.len()));
        self.failed_at.push_back(now);
        self.in_a_row += 1;
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
            .map(|&at| verdict(&mut policy, Failed { at: Duration::from_secs(at), ..Failed::default() }))
            .collect();
        assert_eq!(verdicts, expected, "restarts_max {restarts_max}, failures at {failures_s:?} s");
    }

    /// The pause, milliseconds.
    fn verdict(policy: &mut RestartPolicy, failed: Failed) -> Option<u64> {
        match policy.failed(failed) {
            Verdict::RestartAfter(pause) => Some(pause.as_millis() as u64),
            Verdict::GiveUp => None,
        }
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

    #[test]
    fn after_good_service_a_failure_stands_alone_but_counts() {
        let mut policy = RestartPolicy::new(3);
        let served = [0, 0, 3, 60].map(Duration::from_secs);
        let verdicts = served.map(|served| verdict(&mut policy, Failed { served, ..Failed::default() }));
        assert_eq!(verdicts, [Some(0), Some(500), Some(0), None]);
    }

    #[test]
    fn failures_of_a_sequence_given_up_are_forgiven_once_a_group_served_well() {
        let check = |failures: &[(u64, u64)], expected: &[Option<u64>]| {
            let mut policy = RestartPolicy::new(3);
            let verdicts = failures.iter().map(|&(served_s, poisonous)| {
                let served = Duration::from_secs(served_s);
                verdict(&mut policy, Failed { served, poisonous, ..Failed::default() })
            });
            assert_eq!(verdicts.collect::<Vec<_>>(), expected, "{failures:?}");
        };
        // Two that a sequence cost; then, again and again, one that another costs at first sight, and its second.
        let one_after_the_other = [(9, 0), (0, 0), (9, 1), (0, 1), (9, 2), (0, 2), (9, 3)];
        check(&one_after_the_other, &[Some(0), Some(500), Some(0), Some(500), Some(0), Some(500), Some(0)]);
        // Where nothing is well between them, it is the machine.
        check(&[(0, 0), (0, 0), (0, 1), (0, 1)], &[Some(0), Some(500), Some(1000), None]);
        check(&[(0, 0), (0, 0), (0, 0), (9, 1)], &[Some(0), Some(500), Some(1000), Some(0)]);
    }
}

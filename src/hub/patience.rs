//! What passes is tried again, a few times, after growing pauses; what doesn't is told at once.

use std::{io::ErrorKind, thread, time::Duration};

use super::error::HubError;

/// Failures in a row that are borne.
pub const FAILURES_MAX: u32 = 5;
/// Pause after the first; it doubles with each.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause, unless the hub names one.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Longest pause that the hub may name.
const PAUSE_NAMED_MAX: Duration = Duration::from_secs(60);

/// What an attempt failed of.
#[derive(Debug)]
pub enum Fault {
    /// Another attempt would fail the same way.
    Final(HubError),
    /// The network could not be used at all, or is too slow: it was tried long enough.
    NoNetwork(String),
    /// A connection broke, or the hub is busy.
    Passing {
        /// In the network's words.
        why: String,
        /// What the hub wants to be waited.
        pause: Option<Duration>,
    },
}

impl From<ureq::Error> for Fault {
    fn from(error: ureq::Error) -> Self {
        let not_at_all = [
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
            ErrorKind::NetworkDown,
            ErrorKind::TimedOut,
        ];
        match error {
            ureq::Error::Io(cause) if !not_at_all.contains(&cause.kind()) => {
                Self::Passing { why: cause.to_string(), pause: None }
            }
            ureq::Error::Io(cause) => Self::NoNetwork(cause.to_string()),
            other => Self::NoNetwork(other.to_string()),
        }
    }
}

/// How long to wait after so many failures in a row.
pub fn pause_after(failures: u32, named: Option<Duration>) -> Duration {
    let own = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX);
    named.unwrap_or_default().min(PAUSE_NAMED_MAX).max(own)
}

/// Asks until there is an answer, or [`FAILURES_MAX`] failures; `failed` hears of each and of the pause after it.
pub fn patiently<T>(
    mut ask: impl FnMut() -> Result<T, Fault>,
    mut failed: impl FnMut(&str, Duration),
) -> Result<T, Fault> {
    let mut failures = 0;
    loop {
        match ask() {
            Err(Fault::Passing { why, pause }) if failures + 1 < FAILURES_MAX => {
                failures += 1;
                let pause = pause_after(failures, pause);
                failed(&why, pause);
                thread::sleep(pause);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let ms = |failures, named: Option<u64>| pause_after(failures, named.map(Duration::from_secs)).as_millis();
        assert_eq!([1, 2, 3, 5, 40].map(|failures| ms(failures, None)), [500, 1000, 2000, 8000, 8000]);
        assert_eq!([0, 3, 3600].map(|named| ms(1, Some(named))), [500, 3000, 60_000]);
    }
}

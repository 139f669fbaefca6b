//! Sleeping until the other side has done something, without ever missing it.
//!
//! ```text
//! sleeper                                ringer
//!   sleepers += 1                          change what is looked at
//!   fence ──────────── either ──────────── fence
//!   remember `rung`                        someone sleeps?
//!   look again: sees the change     or       rung += 1, wake: the sleeper's futex refuses, or ends
//! ```
//! One of the two must happen, since the fences have an order. A sleep is bounded by [`DOZE_MAX`] nonetheless: a killed
//! ringer rings no more, and callers want to look at the world now and then.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
    time::{Duration, Instant},
};

use super::{
    SPIN, Waiting,
    atomics::{Atomic, Atomics},
};

/// The longest sleep without a look around.
pub const DOZE_MAX: Duration = Duration::from_millis(100);

/// A word to sleep on, and whether anybody does. A sleeper that is killed stays counted: that costs its ringer a system
/// call each time, nothing else.
#[repr(C)]
pub struct Bell<A: Atomics> {
    rung: A::Half,
    sleepers: A::Half,
}

impl<A: Atomics> Bell<A> {
    #[cfg(test)]
    pub(super) fn new(rung: A::Half, sleepers: A::Half) -> Self {
        Self { rung, sleepers }
    }

    /// Wakes whoever waits. To be called after the change that they look for.
    pub fn ring(&self) {
        A::fence();
        if self.sleepers.load(Relaxed) != 0 {
            // SYNC: bell rung (meets `doze`): who sees this count sees the change too, and will not sleep.
            self.rung.fetch_add(1, Release);
            A::wake_all(&self.rung);
        }
    }

    /// Looks until `look` finds something, for at most `timeout`.
    pub fn wait<T>(&self, waiting: Waiting, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        let begun = Instant::now();
        if waiting == Waiting::SpinThenSleep
            && let Some(found) = spin(begun, SPIN.min(timeout), &mut look)
        {
            return Some(found);
        }
        loop {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return None;
            }
            if let Some(found) = self.doze(left.min(DOZE_MAX), &mut look).or_else(&mut look) {
                return Some(found);
            }
        }
    }

    fn doze<T>(&self, limit: Duration, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
        self.sleepers.fetch_add(1, Relaxed);
        A::fence();
        // SYNC: bell rung (meets `ring`)
        let rung = self.rung.load(Acquire);
        let found = look();
        if found.is_none() {
            A::doze(&self.rung, rung, limit);
        }
        self.sleepers.fetch_add(u32::MAX, Relaxed); // wraps around: minus one
        found
    }
}

fn spin<T>(begun: Instant, limit: Duration, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
    while begun.elapsed() < limit {
        for _ in 0..32 {
            if let Some(found) = look() {
                return Some(found);
            }
            std::hint::spin_loop();
        }
    }
    None
}

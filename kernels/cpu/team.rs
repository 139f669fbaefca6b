//! The threads that compute together: the caller and its helpers, joined at the end of every operation.
//!
//! A job is a number of items, claimed one by one. Each thread begins with a run of its own, the same share of every job,
//! and then takes over from the others: so what it wrote in one operation is mostly in its cache for the next.
//!
//! Helpers enter a job through a *door* that the caller opens and closes: one that wakes too late finds it closed, so that
//! nobody waits for a sleeping thread. Between jobs helpers spin for a moment (if told that they may) and then sleep: an
//! idle team costs no CPU.

mod door;

use std::{
    cell::Cell,
    marker::PhantomData,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use self::door::Shared;
use super::{CpuConfig, Split};

/// A caller and its helpers. Not `Sync`: there is one caller, so jobs never overlap.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<Helper>,
    one_caller: PhantomData<Cell<()>>,
}

struct Helper {
    thread: JoinHandle<()>,
    sleeping: Arc<AtomicBool>,
}

/// How long a thread that may spin does so before it sleeps: several times the gap between two operations of a step.
const SPIN_US: u64 = 100;

impl Team {
    /// Starts `config.threads - 1` helpers, and pins them and the calling thread if `config.cores` says so.
    pub(crate) fn new(config: &CpuConfig) -> Self {
        let spin = if config.spin { Duration::from_micros(SPIN_US) } else { Duration::ZERO };
        let shared = Arc::new(Shared::new(config.threads.max(1), spin));
        pin(config.cores.first());
        let helpers = (1..config.threads).map(|index| Helper::start(&shared, index, config.cores.get(index))).collect();
        Self { shared, helpers, one_caller: PhantomData }
    }

    /// Threads that compute, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `work(item)` for every item in `0..items`, in no particular order, on all threads; returns when all are
    /// done. A panic in `work` is the caller's panic, after the others have finished.
    pub(crate) fn run(&self, items: usize, work: impl Fn(usize) + Sync) {
        if items <= 1 || self.helpers.is_empty() {
            return (0..items).for_each(work);
        }
        let visit = self.shared.open(items, &work);
        self.helpers.iter().take(items - 1).for_each(Helper::wake);
        visit.shared_items(&work, items);
        drop(visit);
        if let Some(panic) = self.shared.take_panic() {
            resume_unwind(panic);
        }
    }

    /// [`Self::run`], on the caller alone where the work, at `nanoseconds` per item, would not pay for waking the others.
    pub(crate) fn share(&self, items: usize, nanoseconds: f64, work: impl Fn(usize) + Sync) {
        if items as f64 * nanoseconds < WORTH_SHARING_NS {
            return (0..items).for_each(work);
        }
        self.run(items, work);
    }

    /// Calls `work(row, parts)` for each of `rows` rows, `parts` being that row of every slice of `slices`, each given
    /// with its number of columns; the rows go to the threads in runs, as in [`Self::share`].
    pub(crate) fn share_rows<T: Send, const N: usize>(
        &self,
        slices: [(&mut [T], usize); N],
        rows: usize,
        nanoseconds: f64,
        work: impl Fn(usize, [&mut [T]; N]) + Sync,
    ) {
        let slices = slices.map(|(slice, columns)| (Split::new(slice), columns));
        let grain = rows.div_ceil(self.threads() * 4).max(1);
        self.share(rows.div_ceil(grain), nanoseconds * grain as f64, |item| {
            for row in item * grain..rows.min((item + 1) * grain) {
                // SAFETY: each row is in one item, and each slice gives one part of it.
                let parts =
                    slices.each_ref().map(|(split, columns)| unsafe { split.part(row * columns..(row + 1) * columns) });
                work(row, parts);
            }
        });
    }
}

/// Below this, the caller works alone: a few times what a fork and a join are guessed to cost, one to two microseconds with
/// spinning helpers.
const WORTH_SHARING_NS: f64 = 5_000.0;

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop();
        for helper in self.helpers.drain(..) {
            helper.thread.thread().unpark();
            // A helper catches panics of its work, so it ends in order.
            let _ = helper.thread.join();
        }
    }
}

impl Helper {
    fn start(shared: &Arc<Shared>, index: usize, core: Option<&usize>) -> Self {
        let (shared, core) = (shared.clone(), core.copied());
        let sleeping = Arc::new(AtomicBool::new(false));
        let own = sleeping.clone();
        let help = move || {
            pin(core.as_ref());
            shared.help(index, &own);
        };
        let thread = thread::Builder::new().name(format!("compute {index}")).spawn(help);
        Self { thread: thread.expect("the system refused a compute thread"), sleeping }
    }

    fn wake(&self) {
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            self.thread.thread().unpark();
        }
    }
}

/// Pins the calling thread; a core that the system refuses is no reason to stop, only a slower machine.
fn pin(core: Option<&usize>) {
    let Some(&core) = core else { return };
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicU32, AtomicUsize},
    };

    use super::*;

    fn team(threads: usize, spin: bool) -> Team {
        Team::new(&CpuConfig { threads, spin, ..CpuConfig::default() })
    }

    #[test]
    fn every_item_is_done_once() {
        for (threads, spin) in [(1, false), (2, true), (2, false), (5, false), (5, true)] {
            let team = team(threads, spin);
            for items in (0..40).chain([1000]) {
                let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                team.run(items, |item| {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {items} items"
                );
            }
        }
    }

    #[test]
    fn every_row_is_visited_with_its_parts() {
        for threads in [1, 3] {
            for rows in [0, 1, 2, 13, 100] {
                let (mut narrow, mut wide) = (vec![0; rows * 2], vec![0; rows * 5]);
                team(threads, true).share_rows([(&mut narrow, 2), (&mut wide, 5)], rows, 1e9, |row, [narrow, wide]| {
                    assert_eq!((narrow.len(), wide.len()), (2, 5));
                    narrow.iter_mut().chain(wide).for_each(|value| *value += row + 1);
                });
                assert!(narrow.iter().enumerate().all(|(index, &value)| value == index / 2 + 1));
                assert!(wide.iter().enumerate().all(|(index, &value)| value == index / 5 + 1));
            }
        }
    }

    /// Thousands of tiny jobs on more threads than cores: whoever misses a wake-up hangs here.
    #[test]
    fn no_wake_up_is_lost() {
        for spin in [false, true] {
            let team = team(4, spin);
            let mut values = vec![0u32; 64];
            for _ in 0..3_000 {
                let split = Split::new(&mut values);
                // SAFETY: each item is one element.
                team.run(64, |item| unsafe { split.part(item..item + 1)[0] += 1 });
            }
            assert!(values.iter().all(|&value| value == 3_000));
        }
    }

    #[test]
    fn helpers_that_slept_come_back() {
        let team = team(3, true);
        for _ in 0..5 {
            thread::sleep(Duration::from_micros(3 * SPIN_US));
            let sum = AtomicUsize::new(0);
            team.run(1000, |item| {
                sum.fetch_add(item, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 499_500);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        for threads in [1, 3] {
            let team = team(threads, false);
            for culprit in [0, 50, 99] {
                let work = |item| assert_ne!(item, culprit, "the culprit");
                let result = catch_unwind(AssertUnwindSafe(|| team.run(100, work)));
                assert!(result.is_err());
                let done = AtomicUsize::new(0);
                team.run(100, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
                assert_eq!(done.into_inner(), 100);
            }
        }
    }
}

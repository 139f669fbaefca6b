//! The threads that compute together: the caller and its helpers, joined at the end of every operation.
//!
//! A job is a number of items, claimed one by one from a counter. Helpers enter a job through a *door* that the caller
//! opens and closes: one that wakes too late finds it closed, so that nobody waits for a sleeping thread. Between jobs
//! helpers spin for a moment (if told that they may) and then sleep: an idle team costs no CPU.

use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use crossbeam::utils::CachePadded;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::CpuConfig;

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

struct Shared {
    /// `epoch << 33 | open << 32 | helpers inside`; the epoch counts jobs.
    door: CachePadded<AtomicU64>,
    /// The next unclaimed item.
    next: CachePadded<AtomicUsize>,
    /// Written by the caller while the door is closed and nobody is inside, read by helpers inside.
    job: UnsafeCell<Job>,
    /// Whether the caller sleeps until the last helper has left.
    caller_sleeps: CachePadded<AtomicBool>,
    caller: Mutex<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spin: Duration,
}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    items: usize,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. It is written only by the one caller while no helper is
// inside, and what it points to is `Sync` and outlives the job (see `Team::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used only under that protocol.
unsafe impl Send for Shared {}

const OPEN: u64 = 1 << 32;
const INSIDE: u64 = OPEN - 1;

/// How long a thread that may spin does so before it sleeps: several times the gap between two operations of a step.
const SPIN_US: u64 = 100;

impl Team {
    /// Starts `config.threads - 1` helpers, and pins them and the calling thread if `config.cores` says so.
    pub(crate) fn new(config: &CpuConfig) -> Self {
        let shared = Arc::new(Shared::new(if config.spin { Duration::from_micros(SPIN_US) } else { Duration::ZERO }));
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
        self.open(items, &work);
        let visit = Visit(&self.shared);
        visit.shared_items(&work, items);
        drop(visit);
        if let Some(panic) = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
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

    fn open(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. The pointer is used by helpers inside the door only, and `Visit::drop`
        // returns, also when unwinding, only after the door is closed and the last helper has left.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: the door is closed and nobody is inside (the last job ended so), thus nobody reads the job.
        unsafe { *self.shared.job.get() = Job { work, items } };
        self.shared.next.store(0, Ordering::Relaxed);
        let epoch = self.shared.door.load(Ordering::Relaxed) >> 33;
        // SYNC: job visible to helpers that enter.
        self.shared.door.store((epoch + 1) << 33 | OPEN, Ordering::Release);
        // SYNC: door visible to a helper that goes to sleep, or its sleep to us (both sides have a SeqCst fence).
        fence(Ordering::SeqCst);
        for helper in self.helpers.iter().take(items - 1) {
            helper.wake();
        }
    }
}

/// Below this, the caller is done sooner alone (a fork and a join cost one to two microseconds with spinning helpers).
const WORTH_SHARING_NS: f64 = 5_000.0;

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread.thread().unpark();
            // A helper catches panics of its work, so it ends in order.
            let _ = helper.thread.join();
        }
    }
}

/// The caller's part in a job; its end closes the door and waits for the helpers inside.
struct Visit<'a>(&'a Shared);

impl Visit<'_> {
    fn shared_items(&self, work: &(dyn Fn(usize) + Sync), items: usize) {
        while let Some(item) = self.0.claim(items) {
            work(item);
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // After a panic of the caller, what is unclaimed stays undone.
        self.0.next.store(usize::MAX / 2, Ordering::Relaxed);
        self.0.door.fetch_and(!OPEN, Ordering::Relaxed);
        self.0.wait_until_empty();
    }
}

impl Helper {
    fn start(shared: &Arc<Shared>, index: usize, core: Option<&usize>) -> Self {
        let (shared, core) = (shared.clone(), core.copied());
        let sleeping = Arc::new(AtomicBool::new(false));
        let own = sleeping.clone();
        let help = move || {
            pin(core.as_ref());
            shared.help(&own);
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

impl Shared {
    fn new(spin: Duration) -> Self {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| {};
        Self {
            door: CachePadded::new(AtomicU64::new(0)),
            next: CachePadded::new(AtomicUsize::new(0)),
            job: UnsafeCell::new(Job { work: nothing, items: 0 }),
            caller_sleeps: CachePadded::new(AtomicBool::new(false)),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spin,
        }
    }

    fn claim(&self, items: usize) -> Option<usize> {
        let item = self.next.fetch_add(1, Ordering::Relaxed);
        (item < items).then_some(item)
    }

    /// A helper's life.
    fn help(&self, sleeping: &AtomicBool) {
        let mut last_epoch = 0;
        while self.wait_for_job(last_epoch, sleeping) {
            if let Some(epoch) = self.enter() {
                last_epoch = epoch;
                self.work();
                self.leave();
            }
        }
    }

    /// Waits for an open door that this helper has not been through; false: the team ends.
    fn wait_for_job(&self, last_epoch: u64, sleeping: &AtomicBool) -> bool {
        let news = || {
            let door = self.door.load(Ordering::Relaxed);
            (door & OPEN != 0 && door >> 33 != last_epoch) || self.stop.load(Ordering::Relaxed)
        };
        if !self.spin_until(&news) {
            loop {
                sleeping.store(true, Ordering::Relaxed);
                // SYNC: door visible to a helper that goes to sleep, or its sleep to the caller.
                fence(Ordering::SeqCst);
                if news() {
                    break;
                }
                thread::park();
            }
            sleeping.store(false, Ordering::Relaxed);
        }
        !self.stop.load(Ordering::Relaxed)
    }

    /// Goes in if the door is open; answers the job's epoch.
    fn enter(&self) -> Option<u64> {
        let step_in = |door: u64| (door & OPEN != 0).then_some(door + 1);
        // SYNC: job visible to helpers that enter.
        let before = self.door.fetch_update(Ordering::Acquire, Ordering::Relaxed, step_in).ok()?;
        Some(before >> 33)
    }

    fn work(&self) {
        // SAFETY: we are inside, so the job is not written until we leave.
        let job = unsafe { *self.job.get() };
        // SAFETY: the caller keeps what `work` points to alive until we leave.
        let work = unsafe { &*job.work };
        let all = || {
            while let Some(item) = self.claim(job.items) {
                work(item);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(all)) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    fn leave(&self) {
        // SYNC: what helpers computed is visible to the caller. Not only a release: it must come before the look at
        // `caller_sleeps` in the one order of all threads.
        let door = self.door.fetch_sub(1, Ordering::SeqCst) - 1;
        fence(Ordering::SeqCst);
        if door & (OPEN | INSIDE) == 0
            && self.caller_sleeps.swap(false, Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
        {
            caller.unpark();
        }
    }

    /// The caller's wait, door closed.
    fn wait_until_empty(&self) {
        // SYNC: what helpers computed is visible to the caller.
        let empty = || self.door.load(Ordering::Acquire) & INSIDE == 0;
        if self.spin_until(&empty) {
            return;
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        loop {
            self.caller_sleeps.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if empty() {
                break;
            }
            thread::park();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// Spins as long as allowed; whether `condition` came true.
    fn spin_until(&self, condition: &impl Fn() -> bool) -> bool {
        if condition() || self.spin.is_zero() {
            return condition();
        }
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if condition() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > self.spin {
                return false;
            }
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

/// A slice whose parts are written by several threads at once.
pub(crate) struct Split<'a, T> {
    start: *mut T,
    length: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` from which `part` hands out disjoint pieces, as its callers promise.
unsafe impl<T: Send> Sync for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    /// Borrows the whole.
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), length: data.len(), data: PhantomData }
    }

    /// A part of it.
    ///
    /// # Safety
    /// No element is in two parts that are alive at the same time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "disjoint parts of one exclusive borrow")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "{range:?} of {}", self.length);
        // SAFETY: within the borrowed slice, as just asserted, and nobody else's, as promised.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

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

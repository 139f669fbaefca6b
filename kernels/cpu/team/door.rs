//! The door through which helpers enter a job, and leave it: all that the team's threads say to each other.

use std::{
    any::Any,
    cell::UnsafeCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crossbeam::utils::CachePadded;

/// What the caller and its helpers share.
pub(super) struct Shared {
    /// `epoch << 33 | open << 32 | helpers inside`; the epoch counts jobs.
    door: CachePadded<AtomicU64>,
    /// Of each thread's own items the next unclaimed one.
    next: Box<[CachePadded<AtomicUsize>]>,
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

/// The number of the thread that has the jobs done.
const CALLER: usize = 0;

const OPEN: u64 = 1 << 32;
const INSIDE: u64 = OPEN - 1;

impl Shared {
    pub(super) fn new(threads: usize, spin: Duration) -> Self {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| {};
        Self {
            door: CachePadded::new(AtomicU64::new(0)),
            next: (0..threads).map(|_| CachePadded::new(AtomicUsize::new(0))).collect(),
            job: UnsafeCell::new(Job { work: nothing, items: 0 }),
            caller_sleeps: CachePadded::new(AtomicBool::new(false)),
            caller: Mutex::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spin,
        }
    }

    /// The caller opens the door for a job, and goes in itself. The visit borrows `work`, and must be dropped.
    pub(super) fn open<'a>(&'a self, items: usize, work: &'a (dyn Fn(usize) + Sync)) -> Visit<'a> {
        // SAFETY: only the lifetime changes. The pointer is used by helpers inside the door only, and `Visit::drop`
        // returns, also when unwinding, only after the door is closed and the last helper has left.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        // SAFETY: the door is closed and nobody is inside (the last job ended so), thus nobody reads the job.
        unsafe { *self.job.get() = Job { work, items } };
        for (thread, next) in self.next.iter().enumerate() {
            next.store(thread * items / self.next.len(), Ordering::Relaxed);
        }
        let epoch = self.door.load(Ordering::Relaxed) >> 33;
        // SYNC: job visible to helpers that enter.
        self.door.store((epoch + 1) << 33 | OPEN, Ordering::Release);
        // SYNC: door visible to a helper that goes to sleep, or its sleep to us (both sides have a SeqCst fence).
        fence(Ordering::SeqCst);
        Visit(self)
    }

    /// What a helper's work panicked with, once.
    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Helpers that wait now, or will, end instead.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// An item for this thread: of its own, while there are such, else of another's.
    fn claim(&self, thread: usize, items: usize) -> Option<usize> {
        let threads = self.next.len();
        (thread..threads).chain(0..thread).find_map(|owner| {
            let (next, end) = (&self.next[owner], (owner + 1) * items / threads);
            // Who only looks disturbs nobody.
            if next.load(Ordering::Relaxed) >= end {
                return None;
            }
            let item = next.fetch_add(1, Ordering::Relaxed);
            (item < end).then_some(item)
        })
    }

    /// A helper's life.
    pub(super) fn help(&self, thread: usize, sleeping: &AtomicBool) {
        let mut last_epoch = 0;
        while self.wait_for_job(last_epoch, sleeping) {
            if let Some(epoch) = self.enter() {
                last_epoch = epoch;
                self.work(thread);
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

    fn work(&self, thread: usize) {
        // SAFETY: we are inside, so the job is not written until we leave.
        let job = unsafe { *self.job.get() };
        // SAFETY: the caller keeps what `work` points to alive until we leave.
        let work = unsafe { &*job.work };
        let all = || {
            while let Some(item) = self.claim(thread, job.items) {
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

/// The caller's part in a job; its end closes the door and waits for the helpers inside.
pub(super) struct Visit<'a>(&'a Shared);

impl Visit<'_> {
    pub(super) fn shared_items(&self, work: &(dyn Fn(usize) + Sync), items: usize) {
        while let Some(item) = self.0.claim(CALLER, items) {
            work(item);
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // After a panic of the caller, what is unclaimed stays undone.
        if thread::panicking() {
            self.0.next.iter().for_each(|next| next.store(usize::MAX / 2, Ordering::Relaxed));
        }
        self.0.door.fetch_and(!OPEN, Ordering::Relaxed);
        self.0.wait_until_empty();
    }
}

//! What a ring stands on: words, a fence, and a way to sleep on a word. The shipped one, and the interface that a model
//! checker fills with its own.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    time::Duration,
};

use rustix::thread::futex::{self, Flags, Timespec};

/// One machine's atomics.
pub trait Atomics: Sized + 'static {
    /// 64 bits, for positions.
    type Word: Atomic<u64>;
    /// 64 bits of a frame, of which every access is ordered by positions (a model checker proves it).
    type Payload: Atomic<u64>;
    /// 32 bits, for what is slept on.
    type Half: Atomic<u32>;

    /// A sequentially consistent fence.
    fn fence();

    /// Sleeps while `word` holds `seen`, until woken, at most for `limit`. May return early.
    fn doze(word: &Self::Half, seen: u32, limit: Duration);

    /// Wakes all who doze on `word`.
    fn wake_all(word: &Self::Half);
}

/// The operations that a ring needs of one word.
pub trait Atomic<T>: Send + Sync + 'static {
    /// As of the standard library's atomics.
    fn load(&self, order: Ordering) -> T;
    /// As of the standard library's atomics.
    fn store(&self, value: T, order: Ordering);
    /// As of the standard library's atomics: adds, wrapping around, and answers what was there.
    fn fetch_add(&self, value: T, order: Ordering) -> T;
}

/// The standard library's atomics and Linux's futex.
#[derive(Debug)]
pub struct Native;

impl Atomics for Native {
    type Word = AtomicU64;
    type Payload = AtomicU64;
    type Half = AtomicU32;

    fn fence() {
        fence(Ordering::SeqCst);
    }

    fn doze(word: &AtomicU32, seen: u32, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // No PRIVATE flag: it would confine the wake-up to this process. Every error (woken, timed out, interrupted,
        // changed meanwhile) means the same to the caller: look again.
        let _ = futex::wait(word, Flags::empty(), seen, Some(&limit));
    }

    fn wake_all(word: &AtomicU32) {
        let _ = futex::wake(word, Flags::empty(), i32::MAX as u32);
    }
}

impl Atomic<u64> for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }
}

impl Atomic<u32> for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.fetch_add(value, order)
    }
}

//! The ring under loom: every interleaving (up to a bound of preemptions) and every stale value that the memory model
//! allows; payload words accessed without an order are an error. Sleeping has no timeout here, so that a wake-up lost is a deadlock found.

use std::time::Duration;

use loom::{
    cell::UnsafeCell,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering, fence},
    },
    thread,
};

use super::{
    RingMemory, RingReader, RingWriter, Waiting,
    atomics::{Atomic, Atomics},
};

/// Never reached: a model takes no time.
const EVER: Duration = Duration::from_secs(3600);

struct Model;

impl Atomics for Model {
    type Word = AtomicU64;
    type Payload = Watched;
    type Half = Futex;

    fn fence() {
        fence(Ordering::SeqCst);
    }

    fn doze(word: &Futex, seen: u32, _limit: Duration) {
        let queue = word.queue.lock().unwrap();
        if word.value.load(Ordering::Relaxed) == seen {
            drop(word.woken.wait(queue).unwrap());
        }
    }

    fn wake_all(word: &Futex) {
        let _queue = word.queue.lock().unwrap();
        word.woken.notify_all();
    }
}

/// What the kernel promises of a futex: comparing and falling asleep are one step, under the lock of its queue.
struct Futex {
    value: AtomicU32,
    queue: Mutex<()>,
    woken: Condvar,
}

impl Futex {
    fn new() -> Self {
        Self { value: AtomicU32::new(0), queue: Mutex::new(()), woken: Condvar::new() }
    }
}

impl Atomic<u32> for Futex {
    fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.value.store(value, order);
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.value.fetch_add(value, order)
    }
}

/// A payload word that loom watches: it reports a write that no happens-before edge parts from another access. An atomic
/// alone would not do, for loom never lets a load see what is written later.
struct Watched {
    value: AtomicU64,
    accesses: UnsafeCell<()>,
}

// SAFETY: the cell holds nothing; it is there to be watched.
unsafe impl Sync for Watched {}

impl Watched {
    fn new() -> Self {
        Self { value: AtomicU64::new(0), accesses: UnsafeCell::new(()) }
    }
}

impl Atomic<u64> for Watched {
    fn load(&self, order: Ordering) -> u64 {
        self.accesses.with(|_| self.value.load(order))
    }

    fn store(&self, value: u64, order: Ordering) {
        self.accesses.with_mut(|_| self.value.store(value, order));
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.accesses.with_mut(|_| self.value.fetch_add(value, order))
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

/// Publishes `frames` of one word through a room for two of them; every reader must take all, whole and in order.
fn check(readers: usize, frames: u64, preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let memories =
            RingMemory::<Model>::in_heap(1 + readers, 32, readers, || AtomicU64::new(0), Watched::new, Futex::new);
        let mut memories = memories.into_iter();
        let mut writer = RingWriter::new(memories.next().unwrap(), Waiting::Sleep).unwrap();
        let readers: Vec<_> = memories
            .enumerate()
            .map(|(index, memory)| thread::spawn(move || take_all(memory, index, frames)))
            .collect();
        for frame in 1..=frames {
            writer.publish(&frame.to_le_bytes(), EVER).unwrap();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

fn take_all(memory: RingMemory<Model>, index: usize, frames: u64) {
    let mut reader = RingReader::new(memory, index, Waiting::Sleep).unwrap();
    for frame in 1..=frames {
        assert_eq!(reader.take(EVER).unwrap(), Some(&frame.to_le_bytes()[..]));
    }
}

#[test]
fn a_full_ring_loses_no_frame_and_no_wake_up() {
    check(1, 3, 3);
}

#[test]
fn two_readers_lose_no_frame_and_no_wake_up() {
    check(2, 2, 2);
}

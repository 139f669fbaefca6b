//! Waiting for the other ranks: spin where there is a core to spend, then sleep on the bell, and look around whenever
//! the sleep was long.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use rustix::thread::futex::{self, Flags, Timespec};

use super::Waiting;
use super::memory::GroupMemory;

/// Longest spin: longer than ranks of one step drift apart, far shorter than anybody notices.
const SPIN_MAX: Duration = Duration::from_millis(1);

/// Looks at the clock once per so many looks at the seats.
const SPINS_PER_CLOCK: u32 = 64;

/// Longest sleep without looking after the peers.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Returns once `arrived` holds. Every [`LOOK_INTERVAL`] asks `look` whether that can still happen, and gives up with
/// its error.
pub(super) fn until<E>(
    memory: &GroupMemory,
    waiting: Waiting,
    arrived: impl Fn() -> bool,
    mut look: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    if arrived() || (waiting == Waiting::Spin && spin(&arrived)) {
        return Ok(());
    }
    let mut looked = Instant::now();
    while !sleep(memory, &arrived) {
        if looked.elapsed() >= LOOK_INTERVAL || memory.lost_rank().is_some() {
            look()?;
            looked = Instant::now();
        }
    }
    Ok(())
}

fn spin(arrived: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < SPIN_MAX {
        for _ in 0..SPINS_PER_CLOCK {
            if arrived() {
                return true;
            }
            spin_loop();
        }
    }
    false
}

/// One sleep, at most [`LOOK_INTERVAL`] long; whether `arrived` holds after it.
fn sleep(memory: &GroupMemory, arrived: impl Fn() -> bool) -> bool {
    let header = memory.header();
    let bell = header.bell.load(Acquire);
    header.sleepers.fetch_add(1, SeqCst);
    fence(SeqCst); // SYNC: arrival or sleeper seen, the other half is in `Turn::arrive`.
    // Either this look sees the last arrival, or the last to arrive sees this sleeper and rings: then the bell differs
    // from what was read above, and the kernel refuses to sleep.
    let done = arrived();
    if !done {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_INTERVAL.subsec_nanos().into() };
        // Not private: the others are processes. Why it returned does not matter, the caller looks again.
        let _ = futex::wait(&header.bell, Flags::empty(), bell, Some(&timeout));
    }
    header.sleepers.fetch_sub(1, SeqCst);
    done || arrived()
}

/// When to ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RingBell {
    /// Only if the count of sleepers says so; follows a `SeqCst` fence.
    IfSomeoneSleeps,
    /// In any case.
    Always,
}

impl GroupMemory {
    /// Wakes every sleeping rank. A rank that was killed in its sleep stays counted: then one system call too many is made.
    pub(super) fn ring_bell(&self, when: RingBell) {
        if when == RingBell::Always || self.sleepers() > 0 {
            self.header().bell.fetch_add(1, Release);
            let _ = futex::wake(&self.header().bell, Flags::empty(), i32::MAX as u32);
        }
    }
}

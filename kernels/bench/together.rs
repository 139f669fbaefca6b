//! What two ranks do together. They are threads here and processes in a server, but memory, words and waiting are the
//! same.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{Arithmetic, Bench, Case, Outcome, State, Timing, Work};
use crate::{
    all_reduce::{AllReduce, reference},
    conformance::fault_of,
    cpu::{Cpu, CpuConfig},
    group::{Group, Waiting, run_ranks},
    memory::Memory,
    samples::{Samples, assert_close},
};

const RANKS: usize = 2;
const MESSAGES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];

/// How often the ranks meet before the first one looks whether it is enough.
const ROUNDS: usize = 32;

pub(super) fn cases() -> Vec<Case> {
    let case = |bytes: usize| {
        let shape = format!("{} KiB, {RANKS} ranks", bytes >> 10);
        Case::new("all_reduce", "f32", shape, move |bench| measure(bench, bytes))
    };
    MESSAGES.map(case).into()
}

fn measure(bench: &Bench, bytes: usize) -> Outcome {
    // Ranks spin as the server's do: where every thread of all of them has a core of its own.
    let cores = &bench.config.cores;
    let waiting = if bench.config.spin && cores.len() >= RANKS { Waiting::Spin } else { Waiting::Sleep };
    let (fault, time) = (fault_of(|| check(cores, waiting, bytes)), bench.time);
    let enough = AtomicBool::new(false);
    let times = run_ranks(RANKS, waiting, |group| run(&device(cores, group), time, bytes / 4, &enough));
    let timing = Timing::of(times.into_iter().next().expect("two ranks"));
    // Each writes its part where others see it, reads theirs, and writes the sum.
    let work = Work { bytes: RANKS * 4 * bytes, operations: 0, arithmetic: Arithmetic::F32, state: State::Warm };
    Outcome { fault, timing, work }
}

/// A rank with one thread, on a core of its own where there are enough.
fn device(cores: &[usize], group: Group) -> Cpu {
    let own = if cores.len() >= RANKS { vec![cores[group.rank()]] } else { Vec::new() };
    Cpu::new(CpuConfig { threads: 1, cores: own, ..CpuConfig::default() }, group)
}

/// What each all-reduce took this rank, from the moment at which both were ready.
fn run(cpu: &Cpu, time: Duration, length: usize, enough: &AtomicBool) -> Vec<Duration> {
    let mut x = cpu.tensor(1, length, &vec![0.0; length]).expect("memory");
    let (begun, mut times) = (Instant::now(), Vec::new());
    while !enough.load(Ordering::Relaxed) {
        for _ in 0..ROUNDS {
            cpu.group.barrier().expect("all are there");
            let started = Instant::now();
            cpu.all_reduce(&mut x).expect("all are there");
            times.push(started.elapsed());
        }
        // Between two barriers, so that all ranks read the same.
        cpu.group.barrier().expect("all are there");
        if cpu.group.rank() == 0 && begun.elapsed() >= time {
            enough.store(true, Ordering::Relaxed);
        }
        cpu.group.barrier().expect("all are there");
    }
    times
}

fn check(cores: &[usize], waiting: Waiting, bytes: usize) {
    let part = |rank: usize| Samples::new(rank as u64).floats(bytes / 4);
    let found = run_ranks(RANKS, waiting, |group| {
        let (rank, cpu) = (group.rank(), device(cores, group));
        let mut x = cpu.tensor(1, bytes / 4, &part(rank)).expect("memory");
        cpu.all_reduce(&mut x).expect("all are there");
        x.data().to_vec()
    });
    let expected = reference(&[part(0), part(1)]);
    found.iter().for_each(|found| assert_close(found, &expected, 0.0, "all_reduce"));
}

//! Ranks that are threads of this process: for checks and measurements.

use std::{panic::resume_unwind, thread, time::Duration};

use super::{Group, GroupMemory, Membership, Waiting};

/// How long they may take to meet.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `rank` on one thread per rank and answers what each returned. One that panics is gone for the others, and its panic
/// goes on here.
pub(crate) fn run_ranks<T: Send>(world_size: usize, waiting: Waiting, rank: impl Fn(Group) -> T + Sync) -> Vec<T> {
    let memory = GroupMemory::heap(world_size);
    thread::scope(|scope| {
        let spawn = |index| {
            let (memory, rank) = (memory.clone(), &rank);
            let membership = Membership { rank: index, world_size, waiting, join_timeout: JOIN_TIMEOUT };
            scope.spawn(move || rank(Group::join(memory, membership).expect("memory of its own was made for it")))
        };
        let threads: Vec<_> = (0..world_size).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

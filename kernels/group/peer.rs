//! Whether a rank is still there. Its process says who it is when it joins; `/proc` knows whether that one still lives.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use rustix::process::{Pid, getpid, test_kill_process};

use super::memory::Seat;

/// Takes a seat for this process, unless it is taken.
pub(super) fn take_seat(seat: &Seat) -> Result<(), ()> {
    let pid = getpid().as_raw_nonzero().get() as u32;
    if seat.member.left.load(Acquire) != 0 || seat.member.pid.load(Acquire) != 0 {
        return Err(());
    }
    let ticks = start_ticks(pid).unwrap_or(0);
    seat.member.start_ticks.store(ticks, Relaxed);
    // SYNC: member written, met by the load in `is_seated`.
    seat.member.pid.compare_exchange(0, pid, AcqRel, Acquire).map(drop).map_err(drop)
}

/// Whether somebody has taken the seat.
pub(super) fn is_seated(seat: &Seat) -> bool {
    // SYNC: member written, met by the exchange in `take_seat`.
    seat.member.pid.load(Acquire) != 0
}

/// Leaves in good order.
pub(super) fn leave(seat: &Seat) {
    // SYNC: last arrival visible, met by the load in `is_gone`.
    seat.member.left.store(1, Release);
}

/// Whether the rank has left, or its process has ended. A rank that has not joined yet is not gone.
pub(super) fn is_gone(seat: &Seat) -> bool {
    // SYNC: last arrival visible, met by the store in `leave`.
    if seat.member.left.load(Acquire) != 0 {
        return true;
    }
    let pid = seat.member.pid.load(Acquire);
    pid != 0 && pid != getpid().as_raw_nonzero().get() as u32 && !is_alive(pid, seat.member.start_ticks.load(Relaxed))
}

fn is_alive(pid: u32, started: u64) -> bool {
    match (start_ticks(pid), Pid::from_raw(pid as i32)) {
        (Some(ticks), _) => ticks == started || started == 0,
        // Without `/proc` a signal that is never sent has to do; it cannot tell a process that nobody has waited for.
        (None, Some(pid)) => started == 0 && test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        (None, None) => false,
    }
}

/// When a process was started, in clock ticks since boot; none if it is no more, or dead and not yet waited for.
/// Fields 3 (state) and 22 of `/proc/PID/stat`, counted behind the name, which may hold anything (proc_pid_stat(5)).
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") { None } else { fields.nth(18)?.parse().ok() }
}

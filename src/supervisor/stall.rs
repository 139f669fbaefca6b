//! Whether the ranks stand still, and which of them keeps the others waiting.

use std::{cmp::Reverse, fs, time::Duration};

use workers::link::vitals::{Phase, RankState, Vitals};

use crate::engine::EngineStats;

/// Ranks that report no progress in loading for this long are given up. The longest silence that is no fault is one huge
/// tensor from a slow disk.
const LOADING_SILENCE_MAX: Duration = Duration::from_secs(120);

/// Work is outstanding, and neither has a report come nor has any of these ranks moved for the limit.
pub fn is_stalled(stats: &EngineStats, ranks: &[Vitals], limit: Duration) -> bool {
    let moved_ms = ranks.iter().map(|vitals| vitals.last_progress_ms).min().unwrap_or(0);
    stats.steps_outstanding && stats.since_progress.min(Duration::from_millis(moved_ms)) >= limit
}

/// For how long nothing has moved at the least, where ranks that load stand still: for a short while if one's process is
/// stopped, for that never ends by itself, and else for longer than any tensor takes from a slow disk.
pub fn stall_in_loading(pids: &[u32], ranks: &[Vitals], limit: Duration) -> Option<Duration> {
    let is_loading = |vitals: &&Vitals| vitals.state != RankState::Ready;
    let silence = |vitals: &Vitals| Duration::from_millis(vitals.last_progress_ms);
    // Whoever has loaded waits for the others: only if none moves does nothing move.
    let nobody_moved = ranks.iter().filter(is_loading).map(silence).min()?;
    if nobody_moved > LOADING_SILENCE_MAX {
        return Some(LOADING_SILENCE_MAX);
    }
    let limit = limit.min(LOADING_SILENCE_MAX);
    let is_held = |(&pid, vitals): (&u32, &Vitals)| is_loading(&vitals) && silence(vitals) > limit && is_stopped(pid);
    pids.iter().zip(ranks).any(is_held).then_some(limit)
}

/// A stall in one line, naming the rank that the others wait for.
pub fn tell_stall(pids: &[u32], ranks: &[Vitals], limit: Duration) -> String {
    let stopped: Vec<_> = pids.iter().map(|&pid| is_stopped(pid)).collect();
    let rank = stalled_rank(ranks, &stopped);
    tell(rank, pids[rank], &ranks[rank], stopped[rank], limit.as_secs())
}

/// Names the rank that keeps the others waiting: a stopped process, else one that is steps behind, else one that is not
/// in the middle of the forward pass (where ranks wait for each other), else the one that has not moved for longest.
fn stalled_rank(ranks: &[Vitals], stopped: &[bool]) -> usize {
    let order = |rank: usize| {
        let vitals = &ranks[rank];
        let running = !stopped.get(rank).copied().unwrap_or(false);
        let waits_for_others = vitals.phase == Phase::Forward;
        (running, vitals.step, waits_for_others, Reverse(vitals.last_progress_ms))
    };
    (0..ranks.len()).min_by_key(|&rank| order(rank)).unwrap_or(0)
}

/// A stall in one line.
fn tell(rank: usize, pid: u32, vitals: &Vitals, stopped: bool, silent_s: u64) -> String {
    let doing = match vitals.state {
        RankState::Ready => format!("in phase {:?} of step {}", vitals.phase, vitals.step).to_lowercase(),
        state => format!("{state:?} at {:.0} % of its weights", vitals.load_progress * 100.0).to_lowercase(),
    };
    let stopped = if stopped { "; its process is stopped by a signal" } else { "" };
    format!("rank {rank} (pid {pid}) stalled: {doing}, nothing moved for {silent_s} s{stopped}")
}

/// Whether a process is stopped by a signal or a debugger (`T` or `t` after the parenthesised name, proc(5)).
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(step: u64, phase: Phase, last_progress_ms: u64) -> Vitals {
        Vitals {
            state: RankState::Ready,
            phase,
            step,
            last_progress_ms,
            load_progress: 1.0,
            step_time_us: 0,
            collective_wait_us: None,
            tokens_total: 0,
            rss_bytes: 0,
            device_memory_bytes: 0,
            kv_blocks_total: 0,
            reading: None,
            device: "cpu".into(),
            error: String::new(),
        }
    }

    #[test]
    fn the_stalled_rank_is_the_one_the_others_wait_for() {
        let check = |ranks: &[Vitals], stopped: &[bool], expected| assert_eq!(stalled_rank(ranks, stopped), expected);
        let waiting = || vitals(7, Phase::Forward, 30_000);
        check(&[waiting(), waiting(), vitals(6, Phase::Idle, 30_000)], &[false; 3], 2);
        check(&[waiting(), vitals(7, Phase::Sample, 29_000), waiting()], &[false; 3], 1);
        check(&[waiting(), vitals(7, Phase::Forward, 31_000)], &[false; 2], 1);
        check(&[waiting(), vitals(6, Phase::Idle, 30_000)], &[true, false], 0);
    }

    #[test]
    fn loading_stalls_where_nobody_moves() {
        let own = std::process::id(); // runs
        let check = |ranks: [(RankState, u64); 2], expected: Option<u64>| {
            let ranks = ranks.map(|(state, silent_s)| Vitals { state, ..vitals(0, Phase::Load, silent_s * 1000) });
            let stall = stall_in_loading(&[own, own], &ranks, Duration::from_secs(30));
            assert_eq!(stall, expected.map(Duration::from_secs), "{ranks:?}");
        };
        check([(RankState::Loading, 40), (RankState::Loading, 100)], None);
        check([(RankState::Loading, 1), (RankState::Loading, 500)], None); // one has loaded and waits for the other
        check([(RankState::Loading, 121), (RankState::Loading, 500)], Some(120));
        check([(RankState::Ready, 1), (RankState::Loading, 121)], Some(120));
        check([(RankState::Ready, 500), (RankState::Ready, 500)], None);
    }

    #[test]
    fn a_stall_names_rank_and_phase() {
        let text = tell(3, 77, &vitals(9, Phase::Forward, 0), true, 30);
        let expected = "rank 3 (pid 77) stalled: in phase forward of step 9, nothing moved for 30 s; its process is \
                        stopped by a signal";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_silence_with_work_outstanding_is_a_stall() {
        let check = |steps_outstanding, engine_silent_s, rank_silent_s: [u64; 2], expected| {
            let since_progress = Duration::from_secs(engine_silent_s);
            let stats = EngineStats { steps_outstanding, since_progress, ..EngineStats::default() };
            let ranks = rank_silent_s.map(|seconds| vitals(1, Phase::Forward, seconds * 1000));
            assert_eq!(is_stalled(&stats, &ranks, Duration::from_secs(30)), expected);
        };
        check(true, 31, [40, 30], true);
        check(true, 29, [40, 40], false); // published just now, after a long rest
        check(true, 31, [40, 1], false); // a long step, in which one rank still moves
        check(false, 3600, [3600, 3600], false);
    }
}

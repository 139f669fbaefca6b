//! What is told of each rank, as text: the same on the screen and in the plain table.

use std::time::Duration;

use workers::ThrottleReason;

use super::source::Sample;
use crate::supervisor::{GpuReport, RankReport, ReportedState};

/// Titles of the columns.
pub const TITLES: [&str; 12] =
    ["RANK", "STATE", "PHASE", "PID", "STEP", "STEP TIME", "TOKENS/S", "MEMORY", "KV BLOCKS", "MOVED", "GPU", "DEVICE"];

/// The column that stays away where no rank has anything for it.
const GPU: usize = 10;

/// One rank's cells, in the order of [`TITLES`].
pub fn cells(rank: &RankReport, tokens_per_second: Option<f64>) -> [String; TITLES.len()] {
    let phase = format!("{:?}", rank.phase).to_lowercase();
    let is_up = rank.pid.is_some();
    let known = |text: String| if is_up { text } else { "-".to_owned() };
    [
        rank.rank.to_string(),
        state(rank),
        known(phase),
        rank.pid.map_or("-".into(), |pid| pid.to_string()),
        known(rank.step.to_string()),
        known(format!("{:.1} ms", rank.step_time_ms)),
        tokens_per_second.map_or("-".into(), |rate| format!("{rate:.0}")),
        known(bytes(rank.rss_bytes)),
        known(format!("{}/{}", rank.kv_blocks_used, rank.kv_blocks_total)),
        known(age(Duration::from_millis(rank.last_progress_ms))),
        rank.gpu.as_ref().map_or("-".into(), gpu),
        known(rank.device.clone()),
    ]
}

/// Of a row like [`TITLES`], what is shown of these ranks.
pub fn shown<T>(row: [T; TITLES.len()], ranks: &[RankReport]) -> impl Iterator<Item = T> {
    let has_gpus = ranks.iter().any(|rank| rank.gpu.is_some());
    row.into_iter().enumerate().filter(move |(column, _)| *column != GPU || has_gpus).map(|(_, cell)| cell)
}

/// `61°C 87% 412W 63.1/80.0GiB`, and what is wrong with it.
fn gpu(gpu: &GpuReport) -> String {
    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    // To draw what it may is a GPU's ordinary life.
    let slowed = gpu.throttle.iter().flatten().filter(|reason| *reason != ThrottleReason::PowerCap.name());
    let cells = [
        gpu.temperature_c.map(|degrees| format!("{degrees}°C")),
        gpu.utilization_percent.map(|percent| format!("{percent}%")),
        gpu.power_w.map(|watts| format!("{watts:.0}W")),
        memory.map(|(used, total)| format!("{:.1}/{:.1}GiB", gibibytes(used), gibibytes(total))),
        gpu.ecc_errors.filter(|errors| *errors > 0).map(|errors| format!("{errors} ECC errors")),
    ];
    let cells = cells.into_iter().flatten().chain(slowed.map(|reason| format!("slowed: {reason}")));
    cells.collect::<Vec<_>>().join(" ")
}

/// The state; of a loading rank how far it is, as a small bar.
fn state(rank: &RankReport) -> String {
    match rank.state {
        ReportedState::Loading => format!("{} {:>3.0} %", bar(rank.load_progress, 8), rank.load_progress * 100.0),
        state => state.to_string(),
    }
}

/// A share as a bar of `width` characters.
pub fn bar(share: f32, width: usize) -> String {
    let full = (share.clamp(0.0, 1.0) * width as f32).round() as usize;
    "█".repeat(full) + &"░".repeat(width - full)
}

/// Tokens per second of a rank between two samples; none across a restart.
pub fn tokens_per_second(rank: usize, earlier: &Sample, now: &Sample, elapsed_s: f64) -> Option<f64> {
    if earlier.ranks.epoch != now.ranks.epoch {
        return None;
    }
    let tokens = |sample: &Sample| sample.ranks.ranks.get(rank).map(|rank| rank.tokens_total);
    Some(tokens(now)?.checked_sub(tokens(earlier)?)? as f64 / elapsed_s)
}

/// Bytes in the unit that fits.
pub fn bytes(count: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|&(size, _)| count >= size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / size as f64),
        None => format!("{count} B"),
    }
}

/// How long ago, in the unit that fits.
pub fn age(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_readable() {
        assert_eq!([bytes(5), bytes(1536), bytes(3 << 30)], ["5 B", "1.5 KiB", "3.0 GiB"]);
        let ages = [20, 3_000, 125_000, 7_300_000].map(|ms| age(Duration::from_millis(ms)));
        assert_eq!(ages, ["20 ms", "3 s", "2 min", "2 h"]);
        assert_eq!([bar(0.0, 4), bar(0.5, 4), bar(7.0, 4)], ["░░░░", "██░░", "████"]);
    }

    #[test]
    fn a_dead_rank_has_nothing_to_tell() {
        let cells = cells(&RankReport::dead(3), None);
        assert_eq!(cells, ["3", "dead", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"]);
    }

    #[test]
    fn a_gpu_is_told_in_one_cell_and_needs_no_column_where_there_is_none() {
        let report = GpuReport {
            temperature_c: Some(61),
            utilization_percent: Some(87),
            power_w: Some(412.3),
            memory_used_bytes: Some(67_753_000_000),
            memory_total_bytes: Some(80 << 30),
            throttle: Some(vec!["power_cap".into()]),
            ecc_errors: Some(0),
            ..GpuReport::default()
        };
        assert_eq!(gpu(&report), "61°C 87% 412W 63.1/80.0GiB");
        let (throttle, ecc_errors) = (Some(vec!["heat".into()]), Some(2));
        let ill = GpuReport { temperature_c: Some(95), throttle, ecc_errors, ..GpuReport::default() };
        assert_eq!(gpu(&ill), "95°C 2 ECC errors slowed: heat");
        let on_gpu = RankReport { gpu: Some(report), ..RankReport::dead(0) };
        assert_eq!(shown(TITLES, &[on_gpu, RankReport::dead(1)]).count(), TITLES.len());
        assert_eq!(shown(TITLES, &[RankReport::dead(0)]).last(), Some("DEVICE"));
        assert!(shown(TITLES, &[RankReport::dead(0)]).all(|title| title != "GPU"));
    }
}

//! Shows how far each rank has loaded: a bar per rank on a terminal, a log line per quarter elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use workers::link::vitals::{RankState, Vitals};

/// Positions of a bar from empty to full.
const BAR_STEPS: u64 = 1000;

/// What the operator sees while the group loads. Dropping it ends the bars.
pub enum LoadingDisplay {
    /// One bar per rank on standard error.
    Bars(Vec<ProgressBar>),
    /// The last quarter that was logged of each rank; none before the first.
    Lines(Vec<Option<u64>>),
}

impl LoadingDisplay {
    /// Bars where standard error is a terminal.
    pub fn new(world_size: usize) -> Self {
        match io::stderr().is_terminal() {
            true => Self::Bars(bars(world_size)),
            false => Self::Lines(vec![None; world_size]),
        }
    }

    /// Shows what the ranks say now.
    pub fn show(&mut self, ranks: &[Vitals]) {
        match self {
            Self::Bars(bars) => bars.iter().zip(ranks).for_each(|(bar, vitals)| move_bar(bar, vitals)),
            Self::Lines(told) => {
                for (rank, (told, vitals)) in told.iter_mut().zip(ranks).enumerate() {
                    if let Some(percent) = next_quarter(told, vitals) {
                        tracing::info!("rank {rank}: {percent} % of its weights loaded");
                    }
                }
            }
        }
    }
}

impl Drop for LoadingDisplay {
    fn drop(&mut self) {
        if let Self::Bars(bars) = self {
            bars.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn bars(world_size: usize) -> Vec<ProgressBar> {
    let screen = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:>8} {bar:40} {percent:>3} % {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = |rank| ProgressBar::new(BAR_STEPS).with_style(style.clone()).with_prefix(format!("rank {rank}"));
    (0..world_size).map(|rank| screen.add(bar(rank))).collect()
}

fn move_bar(bar: &ProgressBar, vitals: &Vitals) {
    bar.set_position((f64::from(vitals.load_progress) * BAR_STEPS as f64) as u64);
    bar.set_message(match vitals.state {
        RankState::Starting => "starting",
        RankState::Loading => "loading",
        RankState::Ready => "ready",
        RankState::Failed => "failed",
    });
}

/// The quarter to tell, where a new one was reached since the last: 0, 25, 50, 75 or 100 percent.
fn next_quarter(told: &mut Option<u64>, vitals: &Vitals) -> Option<u64> {
    let quarter = match vitals.state {
        RankState::Starting | RankState::Failed => return None,
        RankState::Ready => 4,
        RankState::Loading => ((vitals.load_progress * 4.0) as u64).min(4),
    };
    let is_new = told.is_none_or(|told| quarter > told);
    *told = Some(told.map_or(quarter, |told| told.max(quarter)));
    is_new.then_some(quarter * 25)
}

#[cfg(test)]
mod tests {
    use super::*;
    use workers::link::vitals::Phase;

    #[test]
    fn each_quarter_is_told_once() {
        let vitals = |state, load_progress| Vitals {
            state,
            phase: Phase::Load,
            step: 0,
            last_progress_ms: 0,
            load_progress,
            step_time_us: 0,
            collective_wait_us: None,
            tokens_total: 0,
            rss_bytes: 0,
            device_memory_bytes: 0,
            kv_blocks_total: 0,
            reading: None,
            device: String::new(),
            error: String::new(),
        };
        let mut told = None;
        assert_eq!(next_quarter(&mut told, &vitals(RankState::Starting, 0.0)), None);
        let shares = [0.0, 0.1, 0.26, 0.3, 0.8, 0.99, 1.0];
        let lines: Vec<_> =
            shares.iter().map(|&share| next_quarter(&mut told, &vitals(RankState::Loading, share))).collect();
        assert_eq!(lines, [Some(0), None, Some(25), None, Some(75), None, Some(100)]);
        assert_eq!(next_quarter(&mut told, &vitals(RankState::Ready, 1.0)), None);
    }
}

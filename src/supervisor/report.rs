//! What `GET /ranks` answers: the group and each rank at one moment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workers::link::vitals::{Phase, RankState, Vitals};

/// The body of `GET /ranks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RanksReport {
    /// How many ranks share the model.
    pub world_size: usize,
    /// How often the group was started before.
    pub epoch: u64,
    /// How often a broken group was started again since the server's start.
    pub restarts: u64,
    /// The ranks, in order.
    pub ranks: Vec<RankReport>,
}

/// One rank at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RankReport {
    /// Its index.
    pub rank: usize,
    /// Its process; none between a death and the next start.
    pub pid: Option<u32>,
    /// What it is.
    pub state: ReportedState,
    /// What it does.
    #[schema(value_type = String)]
    pub phase: Phase,
    /// The last step taken in this epoch.
    pub step: u64,
    /// Milliseconds since its loop last moved.
    pub last_progress_ms: u64,
    /// Share of its weights read, `0..=1`.
    pub load_progress: f32,
    /// Duration of its last step, milliseconds.
    pub step_time_ms: f64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// The device, for people.
    pub device: String,
    /// Memory used on the device for weights and KV cache, bytes.
    pub device_memory_bytes: u64,
    /// Tokens computed since its start (prompt and decode).
    pub tokens_total: u64,
    /// KV blocks that hold something.
    pub kv_blocks_used: u64,
    /// KV blocks there are.
    pub kv_blocks_total: u64,
}

/// A rank's state as the supervisor sees it: the rank's own word, unless it is dead or stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReportedState {
    /// The process is on its way to attach.
    Starting,
    /// Weights are being read.
    Loading,
    /// Steps are taken.
    Ready,
    /// Work is outstanding, and nothing moved for the stall limit.
    Stalled,
    /// The process has ended, or said that it must.
    Dead,
}

impl RankReport {
    /// A rank without a process.
    pub fn dead(rank: usize) -> Self {
        Self {
            rank,
            pid: None,
            state: ReportedState::Dead,
            phase: Phase::Idle,
            step: 0,
            last_progress_ms: 0,
            load_progress: 0.0,
            step_time_ms: 0.0,
            rss_bytes: 0,
            device: String::new(),
            device_memory_bytes: 0,
            tokens_total: 0,
            kv_blocks_used: 0,
            kv_blocks_total: 0,
        }
    }

    /// A rank whose process `pid` left these vitals.
    pub fn alive(rank: usize, pid: u32, vitals: Vitals) -> Self {
        Self {
            rank,
            pid: Some(pid),
            state: vitals.state.into(),
            phase: vitals.phase,
            step: vitals.step,
            last_progress_ms: vitals.last_progress_ms,
            load_progress: vitals.load_progress,
            step_time_ms: vitals.step_time_us as f64 / 1000.0,
            rss_bytes: vitals.rss_bytes,
            device: vitals.device,
            device_memory_bytes: vitals.device_memory_bytes,
            tokens_total: vitals.tokens_total,
            kv_blocks_used: 0,
            kv_blocks_total: vitals.kv_blocks_total,
        }
    }
}

impl From<RankState> for ReportedState {
    fn from(state: RankState) -> Self {
        match state {
            RankState::Starting => Self::Starting,
            RankState::Loading => Self::Loading,
            RankState::Ready => Self::Ready,
            RankState::Failed => Self::Dead,
        }
    }
}

impl std::fmt::Display for ReportedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Stalled => "stalled",
            Self::Dead => "dead",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_ranks_is_as_documented() {
        let report = RanksReport { world_size: 1, epoch: 2, restarts: 2, ranks: vec![RankReport::dead(0)] };
        let expected = serde_json::json!({"world_size": 1, "epoch": 2, "restarts": 2, "ranks": [{
            "rank": 0, "pid": null, "state": "dead", "phase": "idle", "step": 0, "last_progress_ms": 0,
            "load_progress": 0.0, "step_time_ms": 0.0, "rss_bytes": 0, "device": "", "device_memory_bytes": 0,
            "tokens_total": 0, "kv_blocks_used": 0, "kv_blocks_total": 0,
        }]});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert_eq!(serde_json::from_value::<RanksReport>(expected).unwrap(), report);
    }
}

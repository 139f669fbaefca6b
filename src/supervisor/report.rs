//! What `GET /ranks` answers: the group and each rank at one moment.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workers::{
    Reading, ThrottleReason,
    link::vitals::{Phase, RankState, Vitals},
};

/// The body of `GET /ranks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RanksReport {
    /// How many ranks share the model.
    pub world_size: usize,
    /// How often the group was started before.
    pub epoch: u64,
    /// How often a broken group was started again since the server's start.
    pub restarts: u64,
    /// Why a group broke last; null while none did.
    #[serde(default)]
    pub last_error: Option<String>,
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
    /// How long it has waited for other ranks in collectives since its start, seconds; null where the device does not tell.
    #[serde(default)]
    pub collective_wait_s: Option<f64>,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// The device, for people.
    pub device: String,
    /// Memory used on the device for weights and KV cache, bytes.
    pub device_memory_bytes: u64,
    /// What its GPU measures; null on the CPU, and where the GPU's sensors say nothing.
    pub gpu: Option<GpuReport>,
    /// Tokens computed since its start (prompt and decode).
    pub tokens_total: u64,
    /// KV blocks that hold something.
    pub kv_blocks_used: u64,
    /// KV blocks there are.
    pub kv_blocks_total: u64,
}

/// What a GPU measures of itself; null: it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GpuReport {
    /// Degrees Celsius.
    pub temperature_c: Option<u64>,
    /// For which part of the last moment (up to a second) it computed anything, percent.
    pub utilization_percent: Option<u64>,
    /// What it draws.
    pub power_w: Option<f64>,
    /// What it may draw.
    pub power_limit_w: Option<f64>,
    /// Memory in use, by whichever process.
    pub memory_used_bytes: Option<u64>,
    /// All the memory that can be used.
    pub memory_total_bytes: Option<u64>,
    /// Why its clocks are lower than they could be: `power_cap`, `heat`, `power_brake`, `hardware`.
    pub throttle: Option<Vec<String>>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub ecc_errors: Option<u64>,
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
            collective_wait_s: None,
            rss_bytes: 0,
            device: String::new(),
            device_memory_bytes: 0,
            gpu: None,
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
            collective_wait_s: vitals.collective_wait_us.map(|microseconds| microseconds as f64 / 1e6),
            rss_bytes: vitals.rss_bytes,
            device: vitals.device,
            device_memory_bytes: vitals.device_memory_bytes,
            gpu: vitals.reading.map(GpuReport::from),
            tokens_total: vitals.tokens_total,
            kv_blocks_used: 0,
            kv_blocks_total: vitals.kv_blocks_total,
        }
    }
}

impl From<Reading> for GpuReport {
    fn from(reading: Reading) -> Self {
        let watts = |milliwatts: Option<u64>| milliwatts.map(|milliwatts| milliwatts as f64 / 1000.0);
        let names = |reasons: workers::Throttle| reasons.reasons().map(|reason| reason.name().to_owned()).collect();
        Self {
            temperature_c: reading.temperature_c,
            utilization_percent: reading.utilization_percent,
            power_w: watts(reading.power_mw),
            power_limit_w: watts(reading.power_limit_mw),
            memory_used_bytes: reading.memory_used_bytes,
            memory_total_bytes: reading.memory_total_bytes,
            throttle: reading.throttle.map(names),
            ecc_errors: reading.ecc_errors,
        }
    }
}

impl GpuReport {
    /// Whether it is slowed down for this reason; none where it does not tell.
    pub fn is_throttled(&self, reason: ThrottleReason) -> Option<bool> {
        self.throttle.as_ref().map(|reasons| reasons.iter().any(|told| told == reason.name()))
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
        let last_error = Some("rank 0 is gone".to_owned());
        let report = RanksReport { world_size: 1, epoch: 2, restarts: 2, last_error, ranks: vec![RankReport::dead(0)] };
        let expected = serde_json::json!({"world_size": 1, "epoch": 2, "restarts": 2, "last_error": "rank 0 is gone", "ranks": [{
            "rank": 0, "pid": null, "state": "dead", "phase": "idle", "step": 0, "last_progress_ms": 0,
            "load_progress": 0.0, "step_time_ms": 0.0, "collective_wait_s": null, "rss_bytes": 0, "device": "",
            "device_memory_bytes": 0, "gpu": null, "tokens_total": 0, "kv_blocks_used": 0, "kv_blocks_total": 0,
        }]});
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert_eq!(serde_json::from_value::<RanksReport>(expected).unwrap(), report);
    }

    #[test]
    fn a_gpu_tells_in_units_for_people_and_leaves_out_what_it_does_not_know() {
        let reading = Reading {
            memory_used_bytes: Some(63 << 30),
            memory_total_bytes: Some(80 << 30),
            temperature_c: Some(61),
            utilization_percent: Some(87),
            power_mw: Some(412_300),
            power_limit_mw: Some(700_000),
            throttle: Some([ThrottleReason::PowerCap, ThrottleReason::Heat].into_iter().collect()),
            ecc_errors: None,
        };
        let report = GpuReport::from(reading);
        let expected = serde_json::json!({
            "temperature_c": 61, "utilization_percent": 87, "power_w": 412.3, "power_limit_w": 700.0,
            "memory_used_bytes": 67_645_734_912_u64, "memory_total_bytes": 85_899_345_920_u64,
            "throttle": ["power_cap", "heat"], "ecc_errors": null,
        });
        assert_eq!(serde_json::to_value(&report).unwrap(), expected);
        assert_eq!(report.is_throttled(ThrottleReason::Heat), Some(true));
        assert_eq!(report.is_throttled(ThrottleReason::PowerBrake), Some(false));
        assert_eq!(GpuReport::default().is_throttled(ThrottleReason::Heat), None);
    }
}

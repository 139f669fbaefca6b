//! One page of counters per rank, left in shared memory by the rank's own step loop.

use serde::{Deserialize, Serialize};

/// What a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum RankState {
    /// The process is on its way to attach.
    Starting = 0,
    /// Weights are being read.
    Loading = 1,
    /// Steps are taken.
    Ready = 2,
    /// It has given up and said why.
    Failed = 3,
}

/// What a rank does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Phase {
    /// Waiting for a step.
    Idle = 0,
    /// Reading weights.
    Load = 1,
    /// The model's forward pass, its collectives included.
    Forward = 2,
    /// Choosing tokens, and learning them from rank 0.
    Sample = 3,
    /// Writing the report.
    Report = 4,
}

/// One rank's vitals, read at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// What the rank is.
    pub state: RankState,
    /// What it does.
    pub phase: Phase,
    /// The last step taken.
    pub step: u64,
    /// Milliseconds since the rank's loop last moved (took a step, finished one, loaded a tensor).
    pub last_progress_ms: u64,
    /// Share of its weights read, `0..=1`.
    pub load_progress: f32,
    /// Duration of the last step, microseconds.
    pub step_time_us: u64,
    /// Tokens computed since its start (prompt and decode).
    pub tokens_total: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Memory in use on the device for weights and KV cache, bytes.
    pub device_memory_bytes: u64,
    /// KV blocks that this rank has room for.
    pub kv_blocks_total: u64,
    /// The device, for people.
    pub device: String,
    /// Why it failed, for people; empty while nothing did.
    pub error: String,
}

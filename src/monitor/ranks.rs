//! What is true of each rank at the moment of reading.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use super::now::{gauge, total};
use crate::supervisor::{RankReport, RanksReport, ReportedState};

type RankGauge = (&'static str, Option<Unit>, &'static str, fn(&RankReport) -> f64);

const GAUGES: &[RankGauge] = &[
    ("shardwire:rank_up", None, "1 while the rank is ready", |rank| f64::from(rank.state == ReportedState::Ready)),
    ("shardwire:rank_step", None, "The last step taken", |rank| rank.step as f64),
    ("shardwire:rank_last_progress", Some(Unit::Seconds), "Since the rank's loop last moved", |rank| {
        rank.last_progress_ms as f64 / 1e3
    }),
    ("shardwire:rank_step_time", Some(Unit::Seconds), "Duration of the last step", |rank| rank.step_time_ms / 1e3),
    ("shardwire:rank_load_progress", None, "Share of the weights read, 0 to 1", |rank| f64::from(rank.load_progress)),
    ("shardwire:rank_resident_memory", Some(Unit::Bytes), "Resident memory", |rank| rank.rss_bytes as f64),
    ("shardwire:rank_device_memory", Some(Unit::Bytes), "Memory used for weights and KV cache", |rank| {
        rank.device_memory_bytes as f64
    }),
    ("shardwire:rank_kv_blocks_used", None, "KV blocks in use", |rank| rank.kv_blocks_used as f64),
    ("shardwire:rank_kv_blocks_max", None, "KV blocks there are", |rank| rank.kv_blocks_total as f64),
];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RankLabel {
    rank: u64,
}

/// All series of the ranks, and of the group that they are.
pub(super) fn encode(report: &RanksReport, encoder: &mut DescriptorEncoder) -> fmt::Result {
    gauge(encoder, "shardwire:world_size", "Ranks that share the model", report.world_size as f64)?;
    gauge(encoder, "shardwire:epoch", "How often the group of ranks was started before", report.epoch as f64)?;
    total(encoder, "shardwire:restarts", "Restarts of the group of ranks", report.restarts)?;
    for (name, unit, help, value) in GAUGES {
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for rank in &report.ranks {
            ConstGauge::new(value(rank)).encode(family.encode_family(&label(rank))?)?;
        }
    }
    let (help, kind) = ("Tokens computed, prompt and decode", ConstCounter::new(0_u64).metric_type());
    let mut family = encoder.encode_descriptor("shardwire:rank_tokens", help, None, kind)?;
    for rank in &report.ranks {
        ConstCounter::new(rank.tokens_total).encode(family.encode_family(&label(rank))?)?;
    }
    Ok(())
}

fn label(rank: &RankReport) -> RankLabel {
    RankLabel { rank: rank.rank as u64 }
}

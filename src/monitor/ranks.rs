//! What is true of each rank at the moment of reading.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use workers::ThrottleReason;

use super::now::{gauge, total};
use crate::supervisor::{GpuReport, RankReport, RanksReport, ReportedState};

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

type GpuGauge = (&'static str, Option<&'static str>, &'static str, fn(&GpuReport) -> Option<f64>);

/// What only ranks on GPUs have, each as far as the GPU tells it.
const GPU_GAUGES: &[GpuGauge] = &[
    ("shardwire:rank_gpu_temperature", Some("celsius"), "The GPU's temperature", |gpu| Some(gpu.temperature_c? as f64)),
    ("shardwire:rank_gpu_utilization", None, "For which part of the last moment the GPU computed, 0 to 1", |gpu| {
        Some(gpu.utilization_percent? as f64 / 100.0)
    }),
    ("shardwire:rank_gpu_power", Some("watts"), "What the GPU draws", |gpu| gpu.power_w),
    ("shardwire:rank_gpu_power_limit", Some("watts"), "What the GPU may draw", |gpu| gpu.power_limit_w),
    ("shardwire:rank_gpu_memory_used", Some("bytes"), "The GPU's memory in use, by whichever process", |gpu| {
        Some(gpu.memory_used_bytes? as f64)
    }),
    ("shardwire:rank_gpu_memory_max", Some("bytes"), "The GPU's memory", |gpu| Some(gpu.memory_total_bytes? as f64)),
    ("shardwire:rank_gpu_ecc_errors", None, "Memory errors not corrected since the driver was loaded", |gpu| {
        Some(gpu.ecc_errors? as f64)
    }),
];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RankLabel {
    rank: u64,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ThrottleLabels {
    rank: u64,
    reason: &'static str,
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
    encode_waits(&report.ranks, encoder)?;
    encode_gpus(&report.ranks, encoder)
}

/// GPUs meet each other without the host, which then has nothing to tell.
fn encode_waits(ranks: &[RankReport], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let told: Vec<_> = ranks.iter().filter_map(|rank| Some((rank, rank.collective_wait_s?))).collect();
    if told.is_empty() {
        return Ok(());
    }
    let help = "Waited for other ranks in collectives; the rank that waits least keeps the others waiting";
    let (name, kind) = ("shardwire:rank_collective_wait", ConstCounter::new(0.0).metric_type());
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?;
    for (rank, seconds) in told {
        ConstCounter::new(seconds).encode(family.encode_family(&label(rank))?)?;
    }
    Ok(())
}

/// No family where no rank has anything to tell for it.
fn encode_gpus(ranks: &[RankReport], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let kind = ConstGauge::new(0.0).metric_type();
    for (name, unit, help, value) in GPU_GAUGES {
        let told = ranks.iter().filter_map(|rank| Some((rank, value(rank.gpu.as_ref()?)?)));
        let told: Vec<_> = told.collect();
        if told.is_empty() {
            continue;
        }
        let unit = unit.map(|unit| Unit::Other(unit.to_owned()));
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (rank, value) in told {
            ConstGauge::new(value).encode(family.encode_family(&label(rank))?)?;
        }
    }
    let told = ranks.iter().filter_map(|rank| Some((rank, rank.gpu.as_ref().filter(|gpu| gpu.throttle.is_some())?)));
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        return Ok(());
    }
    let help = "1 while the GPU's clocks are lower than they could be, for this reason";
    let mut family = encoder.encode_descriptor("shardwire:rank_gpu_throttled", help, None, kind)?;
    for (rank, gpu) in told {
        for reason in ThrottleReason::ALL {
            let labels = ThrottleLabels { rank: rank.rank as u64, reason: reason.name() };
            let is_throttled = gpu.is_throttled(reason).unwrap_or(false);
            ConstGauge::new(f64::from(is_throttled)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn label(rank: &RankReport) -> RankLabel {
    RankLabel { rank: rank.rank as u64 }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};

    use super::*;

    #[derive(Debug)]
    struct Ranks(RanksReport);

    impl Collector for Ranks {
        fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
            encode(&self.0, &mut encoder)
        }
    }

    fn told(ranks: Vec<RankReport>) -> String {
        let mut registry = Registry::default();
        let report = RanksReport { world_size: ranks.len(), epoch: 0, restarts: 0, last_error: None, ranks };
        registry.register_collector(Box::new(Ranks(report)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn gpus_tell_what_they_know_and_ranks_without_one_nothing() {
        let gpu = GpuReport {
            temperature_c: Some(61),
            utilization_percent: Some(87),
            power_w: Some(412.5),
            throttle: Some(vec!["heat".into()]),
            ..GpuReport::default()
        };
        let text = told(vec![RankReport { gpu: Some(gpu), ..RankReport::dead(0) }, RankReport::dead(1)]);
        for line in [
            "# UNIT shardwire:rank_gpu_power_watts watts",
            "shardwire:rank_gpu_temperature_celsius{rank=\"0\"} 61.0",
            "shardwire:rank_gpu_utilization{rank=\"0\"} 0.87",
            "shardwire:rank_gpu_power_watts{rank=\"0\"} 412.5",
            "shardwire:rank_gpu_throttled{rank=\"0\",reason=\"heat\"} 1.0",
            "shardwire:rank_gpu_throttled{rank=\"0\",reason=\"power_cap\"} 0.0",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line:?} in\n{text}");
        }
        assert!(!text.contains("gpu_memory") && !text.contains("gpu_ecc"), "{text}");
        assert!(!told(vec![RankReport::dead(0)]).contains("gpu"));
    }
}

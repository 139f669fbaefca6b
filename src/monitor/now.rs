//! Metrics that are true at the moment of reading: the engine's and the ranks'.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Unit,
};

use crate::{
    engine::{EngineHandle, EngineStats},
    supervisor::{RankReport, ReportedState, Supervisor},
};

/// Who is asked.
pub struct Sources {
    /// For queue, blocks and steps.
    pub engine: EngineHandle,
    /// For the ranks.
    pub supervisor: Arc<Supervisor>,
    /// Most sequences running at once.
    pub sequences_max: u64,
    /// What the server was configured to, as labels.
    pub settings: Vec<(String, String)>,
}

/// What the values are taken from.
struct Now {
    stats: EngineStats,
    sequences_max: u64,
}

impl Now {
    fn blocks_free(&self) -> u64 {
        self.stats.blocks_total.saturating_sub(self.stats.blocks_used)
    }

    fn batch_free(&self) -> u64 {
        self.sequences_max.saturating_sub(self.stats.running)
    }

    fn cache_usage(&self) -> f64 {
        share(self.stats.blocks_used, self.stats.blocks_total)
    }
}

type Gauge = (&'static str, &'static str, fn(&Now) -> f64);

const GAUGES: &[Gauge] = &[
    ("fastdeploy:num_requests_running", "Sequences being computed", |now| now.stats.running as f64),
    ("vllm:num_requests_running", "Sequences being computed", |now| now.stats.running as f64),
    ("fastdeploy:num_requests_waiting", "Sequences waiting for their turn", |now| now.stats.waiting as f64),
    ("vllm:num_requests_waiting", "Sequences waiting for their turn", |now| now.stats.waiting as f64),
    ("fastdeploy:gpu_cache_usage_perc", "Share of the KV blocks in use, 0 to 1", Now::cache_usage),
    ("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1", Now::cache_usage),
    ("fastdeploy:available_gpu_block_num", "KV blocks that no sequence holds", |now| now.blocks_free() as f64),
    ("fastdeploy:free_gpu_block_num", "KV blocks that no sequence holds", |now| now.blocks_free() as f64),
    ("fastdeploy:max_gpu_block_num", "KV blocks there are", |now| now.stats.blocks_total as f64),
    ("fastdeploy:available_gpu_resource", "Share of the KV blocks that no sequence holds, 0 to 1", |now| {
        share(now.blocks_free(), now.stats.blocks_total)
    }),
    ("fastdeploy:batch_size", "Sequences in the batch", |now| now.stats.running as f64),
    ("fastdeploy:max_batch_size", "Most sequences in the batch", |now| now.sequences_max as f64),
    ("fastdeploy:available_batch_size", "Free places in the batch", |now| now.batch_free() as f64),
    ("fastdeploy:hit_token_rate", "Share of prompt tokens found in the prefix cache, 0 to 1", |now| {
        share(now.stats.prefix_hit_tokens_total, now.stats.prefix_queried_tokens_total)
    }),
    ("fastdeploy:gpu_hit_token_rate", "Share of prompt tokens found in the device's prefix cache, 0 to 1", |now| {
        share(now.stats.prefix_hit_tokens_total, now.stats.prefix_queried_tokens_total)
    }),
    ("shardwire:kv_blocks_cached", "KV blocks whose prefix can be found again", |now| now.stats.blocks_cached as f64),
    ("shardwire:batch_tokens", "Tokens in the batch of the last step", |now| now.stats.batch_tokens as f64),
];

type Total = (&'static str, &'static str, fn(&EngineStats) -> u64);

const TOTALS: &[Total] = &[
    ("fastdeploy:request_preempted", "Sequences that lost their blocks for a while", |stats| stats.preemptions_total),
    ("vllm:num_preemptions", "Sequences that lost their blocks for a while", |stats| stats.preemptions_total),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", |stats| {
        stats.prefix_queried_tokens_total
    }),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", |stats| stats.prefix_hit_tokens_total),
    ("shardwire:steps", "Steps computed", |stats| stats.steps_total),
    ("shardwire:sequences_aborted", "Sequences that their clients gave up", |stats| stats.aborted_total),
    ("shardwire:sequences_failed", "Sequences that failed", |stats| stats.failed_total),
    ("shardwire:prompt_tokens_computed", "Prompt tokens computed, again after a preemption too", |stats| {
        stats.prompt_tokens_total
    }),
];

type RankGauge = (&'static str, Option<Unit>, &'static str, fn(&RankReport) -> f64);

const RANK_GAUGES: &[RankGauge] = &[
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

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let now = Now { stats: self.engine.stats(), sequences_max: self.sequences_max };
        for (name, help, value) in GAUGES {
            gauge(&mut encoder, name, help, value(&now))?;
        }
        for (name, help, value) in TOTALS {
            total(&mut encoder, name, help, value(&now.stats))?;
        }
        let info = Info::new(self.settings.clone());
        info.encode(encoder.encode_descriptor("fastdeploy:cache_config", "Settings", None, info.metric_type())?)?;
        self.encode_ranks(&mut encoder)
    }
}

impl Sources {
    fn encode_ranks(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let report = self.supervisor.ranks();
        gauge(encoder, "shardwire:world_size", "Ranks that share the model", report.world_size as f64)?;
        gauge(encoder, "shardwire:epoch", "How often the group of ranks was started before", report.epoch as f64)?;
        total(encoder, "shardwire:restarts", "Restarts of the group of ranks", report.restarts)?;
        for (name, unit, help, value) in RANK_GAUGES {
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
}

fn label(rank: &RankReport) -> RankLabel {
    RankLabel { rank: rank.rank as u64 }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn total(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

//! Metrics that are true at the moment of reading: the engine's, and with them the ranks'.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
};

use super::ranks;
use crate::{
    engine::{EngineHandle, EngineStats, STEP_SIZES},
    supervisor::Supervisor,
};

/// Who is asked.
pub struct Sources {
    /// For queue, blocks and steps.
    pub engine: EngineHandle,
    /// For the ranks.
    pub supervisor: Arc<Supervisor>,
    /// The served model's name.
    pub model: String,
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

    fn hit_tokens(&self) -> f64 {
        share(self.stats.prefix_hit_tokens_total, self.stats.prefix_queried_tokens_total)
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
    ("fastdeploy:hit_req_rate", "Share of sequences found in the prefix cache in part, 0 to 1", |now| {
        share(now.stats.prefix_hits_total, now.stats.prefix_queries_total)
    }),
    ("fastdeploy:hit_token_rate", "Share of prompt tokens found in the prefix cache, 0 to 1", Now::hit_tokens),
    (
        "fastdeploy:gpu_hit_token_rate",
        "Share of prompt tokens found in the device's prefix cache, 0 to 1",
        Now::hit_tokens,
    ),
    ("fastdeploy:cpu_hit_token_rate", "As there is no second tier of the prefix cache: 0", |_| 0.0),
    ("fastdeploy:spec_decode_draft_acceptance_rate", "Share of drafted tokens that were right, 0 to 1", |now| {
        share(now.stats.accepted_tokens_total, now.stats.draft_tokens_total)
    }),
    (
        "fastdeploy:spec_decode_efficiency",
        "Tokens that drafts and the places before them gave, of all they could, 0 to 1",
        |now| {
            let EngineStats { drafts_total, draft_tokens_total, accepted_tokens_total, .. } = now.stats;
            share(drafts_total + accepted_tokens_total, drafts_total + draft_tokens_total)
        },
    ),
    ("shardwire:kv_blocks_cached", "KV blocks whose prefix can be found again", |now| now.stats.blocks_cached as f64),
    ("shardwire:num_requests_paused", "Sequences waiting for slow readers", |now| now.stats.paused as f64),
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
    ("fastdeploy:prefix_cpu_cache_token_num", "As there is no second tier of the prefix cache: 0", |_| 0),
    ("fastdeploy:prefix_ssd_cache_token_num", "As there is no third tier of the prefix cache: 0", |_| 0),
    ("fastdeploy:send_cache_failed_num", "As prefill and decode are never apart: 0", |_| 0),
    ("vllm:spec_decode_num_drafts", "Drafts of a sequence's next tokens", |stats| stats.drafts_total),
    ("vllm:spec_decode_num_draft_tokens", "Tokens in drafts", |stats| stats.draft_tokens_total),
    ("vllm:spec_decode_num_accepted_tokens", "Tokens in drafts that were right", |stats| stats.accepted_tokens_total),
    ("shardwire:choices_deferred", "Choices put off because a guide was not ready", |stats| stats.deferrals_total),
    ("shardwire:sequences_paused", "Sequences paused because their readers were too far behind", |stats| {
        stats.pauses_total
    }),
    ("shardwire:sequences_replayed", "Running sequences that the next group of ranks had to compute anew", |stats| {
        stats.replays_total
    }),
    ("shardwire:sequences_poisonous", "Sequences given up because groups of ranks died of them", |stats| {
        stats.poisonous_total
    }),
    ("shardwire:steps", "Steps computed", |stats| stats.steps_total),
    ("shardwire:sequences_aborted", "Sequences that their clients gave up", |stats| stats.aborted_total),
    ("shardwire:sequences_failed", "Sequences that failed", |stats| stats.failed_total),
    ("shardwire:prompt_tokens_computed", "Prompt tokens computed, again after a preemption or a replay too", |stats| {
        stats.prompt_tokens_total
    }),
];

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let now = Now { stats: self.engine.stats(), sequences_max: self.sequences_max };
        for (name, help, value) in GAUGES {
            self.encode_value(&mut encoder, name, help, &ConstGauge::new(value(&now)))?;
        }
        for (name, help, value) in TOTALS {
            self.encode_value(&mut encoder, name, help, &ConstCounter::new(value(&now.stats)))?;
        }
        for name in ["fastdeploy:cache_config", "vllm:cache_config"] {
            self.encode_value(&mut encoder, name, "Settings", &Info::new(self.settings.clone()))?;
        }
        self.encode_value(&mut encoder, "vllm:iteration_tokens_total", "Tokens in a step", &StepSizes(&now.stats))?;
        ranks::encode(&self.supervisor.ranks(), &mut encoder)
    }
}

impl Sources {
    /// One metric; with vLLM's label, if it is one of vLLM's.
    fn encode_value(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: &impl EncodeMetric,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, value.metric_type())?;
        match name.starts_with("vllm:") {
            true => value.encode(metric.encode_family(&[("model_name", self.model.as_str())])?),
            false => value.encode(metric),
        }
    }
}

/// How large steps were: the engine counts, and this tells it as a histogram.
struct StepSizes<'a>(&'a EngineStats);

impl EncodeMetric for StepSizes<'_> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let bounds = STEP_SIZES.iter().map(|&bound| bound as f64).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.0.step_sizes).collect();
        let count = self.0.step_sizes.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.stepped_tokens_total as f64, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

pub(super) fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

pub(super) fn total(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
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

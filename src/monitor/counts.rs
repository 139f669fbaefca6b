//! Metrics that are counted as it happens.

use std::{borrow::Cow, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

const TIME_TO_FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const TIME_PER_TOKEN_S: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 33792.0];
const ANSWERS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// How a sequence ended, as far as its client is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Stop,
    /// By the most tokens it may have.
    Length,
    /// Its client gave it up.
    Abort,
    /// It failed.
    Error,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Stop | Self::Length)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }

    pub(super) fn label(self) -> Reason {
        [("finished_reason", self.name())]
    }
}

/// The label that tells endings apart.
pub(super) type Reason = [(&'static str, &'static str); 1];

/// The label that tells answers apart.
pub(super) type Status = [(&'static str, u32); 1];

/// Of an answer with this status.
pub(super) fn status_label(status: u16) -> Status {
    [("status", status.into())]
}

/// A number that is set.
type Latest = Gauge<f64, AtomicU64>;

#[derive(Clone)]
pub(super) struct Counts {
    pub requests: Counter,
    pub responses: Family<Status, Counter>,
    pub successes: Counter,
    pub endings: Family<Reason, Counter>,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generation_tokens: Counter,
    pub time_to_first_token: Histogram,
    pub last_time_to_first_token: Latest,
    pub time_per_output_token: Histogram,
    pub last_time_per_output_token: Latest,
    pub mean_time_per_output_token: Histogram,
    pub latency: Histogram,
    pub inference_time: Histogram,
    pub queue_time: Histogram,
    pub prefill_time: Histogram,
    pub decode_time: Histogram,
    pub prompt_length: Histogram,
    pub generation_length: Histogram,
    pub max_tokens: Histogram,
    pub answers_wanted: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        let histogram = |buckets: &[f64]| Histogram::new(buckets.iter().copied());
        let endings = Family::<Reason, Counter>::default();
        for ending in Ending::ALL {
            drop(endings.get_or_create(&ending.label())); // So that all stand there from the start, at zero.
        }
        Self {
            requests: Counter::default(),
            responses: Family::default(),
            successes: Counter::default(),
            endings,
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            time_to_first_token: histogram(TIME_TO_FIRST_TOKEN_S),
            last_time_to_first_token: Latest::default(),
            time_per_output_token: histogram(TIME_PER_TOKEN_S),
            last_time_per_output_token: Latest::default(),
            mean_time_per_output_token: histogram(TIME_PER_TOKEN_S),
            latency: histogram(REQUEST_S),
            inference_time: histogram(REQUEST_S),
            queue_time: histogram(REQUEST_S),
            prefill_time: histogram(REQUEST_S),
            decode_time: histogram(REQUEST_S),
            prompt_length: histogram(TOKENS),
            generation_length: histogram(TOKENS),
            max_tokens: histogram(TOKENS),
            answers_wanted: histogram(ANSWERS),
        }
    }
}

impl Counts {
    /// Names and help. Counters get `_total` and times `_seconds` appended, as the text format wants it.
    pub fn register(&self, registry: &mut Registry, model: &str) {
        self.register_family(registry, "fastdeploy");
        registry.register("fastdeploy:requests_number", "Requests received", self.requests.clone());
        registry.register("fastdeploy:request_success", "Sequences that came to their end", self.successes.clone());
        let help = "Answers over HTTP on the main port; an error inside a stream is no status";
        registry.register("shardwire:http_responses", help, self.responses.clone());
        for (name, help) in [
            ("prefix_cache_token_num", "Prompt tokens found in the prefix cache"),
            ("prefix_gpu_cache_token_num", "Prompt tokens found in the device's prefix cache"),
        ] {
            registry.register(format!("fastdeploy:{name}"), help, self.cached_tokens.clone());
        }
        for (name, help, latest) in [
            (
                "first_token_latency",
                "Seconds from the latest request to its first token",
                &self.last_time_to_first_token,
            ),
            ("infer_latency", "Seconds from a token to the next, lately", &self.last_time_per_output_token),
        ] {
            registry.register(format!("fastdeploy:{name}"), help, latest.clone());
        }
        let label = (Cow::Borrowed("model_name"), Cow::Owned(model.to_owned()));
        let registry = registry.sub_registry_with_label(label);
        self.register_family(registry, "vllm");
        registry.register("vllm:request_success", "Sequences that ended, and how", self.endings.clone());
        let (name, help) = ("vllm:request_params_n", "Answers wanted to each prompt");
        registry.register(name, help, self.answers_wanted.clone());
        for (name, help, histogram) in [
            ("inter_token_latency", "From a token to the next", &self.time_per_output_token),
            ("request_time_per_output_token", "From a token to the next, on average", &self.mean_time_per_output_token),
        ] {
            registry.register_with_unit(format!("vllm:{name}"), help, Unit::Seconds, histogram.clone());
        }
    }

    /// What is called alike by both.
    fn register_family(&self, registry: &mut Registry, family: &str) {
        for (name, help, counter) in [
            ("prompt_tokens", "Tokens of prompts, cached ones too", &self.prompt_tokens),
            ("generation_tokens", "Tokens generated", &self.generation_tokens),
        ] {
            registry.register(format!("{family}:{name}"), help, counter.clone());
        }
        for (name, help, histogram) in [
            ("time_to_first_token", "From the request to its first token", &self.time_to_first_token),
            ("time_per_output_token", "From a token to the next", &self.time_per_output_token),
            ("e2e_request_latency", "From the request to its last token", &self.latency),
            ("request_inference_time", "From the start of computing to the last token", &self.inference_time),
            ("request_queue_time", "From the request to the start of computing", &self.queue_time),
            ("request_prefill_time", "From the start of computing to the first token", &self.prefill_time),
            ("request_decode_time", "From the first token to the last", &self.decode_time),
        ] {
            registry.register_with_unit(format!("{family}:{name}"), help, Unit::Seconds, histogram.clone());
        }
        for (name, help, histogram) in [
            ("request_prompt_tokens", "Tokens of a prompt", &self.prompt_length),
            ("request_generation_tokens", "Tokens generated in a sequence", &self.generation_length),
            ("request_params_max_tokens", "Most tokens that a sequence may have", &self.max_tokens),
        ] {
            registry.register(format!("{family}:{name}"), help, histogram.clone());
        }
    }
}

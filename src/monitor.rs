//! Every metric: name, unit, help.
//!
//! The same values stand under FastDeploy's names and under vLLM's, so that dashboards and gateways made for either
//! read them; what only Shardwire has is `shardwire:*`. What the engine and the ranks know is read when it is asked for
//! ([`now`]); what only the way of a request tells is counted here as it happens.

mod now;

use std::{fmt, sync::Arc, time::Instant};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, histogram::Histogram},
    registry::{Registry, Unit},
};

pub use now::Sources;

const TIME_TO_FIRST_TOKEN_S: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const TIME_PER_TOKEN_S: &[f64] = &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const REQUEST_S: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 33792.0];

/// Counters and histograms, cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    registry: Arc<Registry>,
    counts: Counts,
}

/// What is counted as it happens.
#[derive(Clone)]
struct Counts {
    requests: Counter,
    successes: Counter,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generation_tokens: Counter,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    latency: Histogram,
    inference_time: Histogram,
    queue_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    prompt_length: Histogram,
    generation_length: Histogram,
    max_tokens: Histogram,
}

impl Monitor {
    /// All metrics; `sources` are asked at every reading.
    pub fn new(sources: Sources) -> Self {
        let counts = Counts::default();
        let mut registry = Registry::default();
        counts.register(&mut registry);
        registry.register_collector(Box::new(sources));
        Self { registry: Arc::new(registry), counts }
    }

    /// The OpenMetrics text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// A request has come.
    pub fn count_request(&self) {
        self.counts.requests.inc();
    }

    /// A prompt is being computed, these many of its tokens come from the prefix cache.
    pub fn count_prompt(&self, tokens: u64, cached: u64) {
        self.counts.prompt_tokens.inc_by(tokens);
        self.counts.cached_tokens.inc_by(cached);
    }

    /// Follows one sequence, submitted just now.
    pub fn passage(&self, prompt_tokens: usize, max_tokens: u32) -> Passage {
        self.counts.prompt_length.observe(prompt_tokens as f64);
        self.counts.max_tokens.observe(f64::from(max_tokens));
        let submitted = Instant::now();
        Passage { counts: self.counts.clone(), submitted, started: submitted, first: None, last: submitted, tokens: 0 }
    }
}

/// The times of one sequence.
pub struct Passage {
    counts: Counts,
    submitted: Instant,
    started: Instant,
    first: Option<Instant>,
    last: Instant,
    tokens: u64,
}

impl Passage {
    /// It was admitted.
    pub fn started(&mut self, now: Instant) {
        self.started = now;
        self.counts.queue_time.observe(seconds(self.submitted, now));
    }

    /// It has one more token.
    pub fn token(&mut self, now: Instant) {
        self.counts.generation_tokens.inc();
        self.tokens += 1;
        if self.first.is_none() {
            self.first = Some(now);
            self.counts.time_to_first_token.observe(seconds(self.submitted, now));
            self.counts.prefill_time.observe(seconds(self.started, now));
        } else {
            self.counts.time_per_output_token.observe(seconds(self.last, now));
        }
        self.last = now;
    }

    /// It came to its end.
    pub fn finished(&mut self, now: Instant) {
        self.counts.successes.inc();
        self.counts.generation_length.observe(self.tokens as f64);
        self.counts.latency.observe(seconds(self.submitted, now));
        self.counts.inference_time.observe(seconds(self.started, now));
        self.counts.decode_time.observe(seconds(self.first.unwrap_or(now), now));
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64()
}

impl Default for Counts {
    fn default() -> Self {
        let histogram = |buckets: &[f64]| Histogram::new(buckets.iter().copied());
        Self {
            requests: Counter::default(),
            successes: Counter::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            time_to_first_token: histogram(TIME_TO_FIRST_TOKEN_S),
            time_per_output_token: histogram(TIME_PER_TOKEN_S),
            latency: histogram(REQUEST_S),
            inference_time: histogram(REQUEST_S),
            queue_time: histogram(REQUEST_S),
            prefill_time: histogram(REQUEST_S),
            decode_time: histogram(REQUEST_S),
            prompt_length: histogram(TOKENS),
            generation_length: histogram(TOKENS),
            max_tokens: histogram(TOKENS),
        }
    }
}

impl Counts {
    /// Names and help. Counters get `_total` and times `_seconds` appended, as the text format wants it.
    fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter("fastdeploy:requests_number", "Requests received", &self.requests);
        counter("fastdeploy:prefix_cache_token_num", "Prompt tokens found in the prefix cache", &self.cached_tokens);
        counter(
            "fastdeploy:prefix_gpu_cache_token_num",
            "Prompt tokens found in the device's prefix cache",
            &self.cached_tokens,
        );
        for family in ["fastdeploy", "vllm"] {
            counter(&format!("{family}:request_success"), "Sequences that came to their end", &self.successes);
            counter(&format!("{family}:prompt_tokens"), "Tokens of prompts, cached ones too", &self.prompt_tokens);
            counter(&format!("{family}:generation_tokens"), "Tokens generated", &self.generation_tokens);
        }
        let mut time = |name: &str, help: &str, histogram: &Histogram| {
            for family in ["fastdeploy", "vllm"] {
                registry.register_with_unit(format!("{family}:{name}"), help, Unit::Seconds, histogram.clone());
            }
        };
        time("time_to_first_token", "From the request to its first token", &self.time_to_first_token);
        time("time_per_output_token", "From a token to the next", &self.time_per_output_token);
        time("e2e_request_latency", "From the request to its last token", &self.latency);
        time("request_inference_time", "From the start of computing to the last token", &self.inference_time);
        time("request_queue_time", "From the request to the start of computing", &self.queue_time);
        time("request_prefill_time", "From the start of computing to the first token", &self.prefill_time);
        time("request_decode_time", "From the first token to the last", &self.decode_time);
        let help = "From a token to the next";
        registry.register_with_unit(
            "vllm:inter_token_latency",
            help,
            Unit::Seconds,
            self.time_per_output_token.clone(),
        );
        let mut tokens = |name: &str, help: &str, histogram: &Histogram| {
            for family in ["fastdeploy", "vllm"] {
                registry.register(format!("{family}:{name}"), help, histogram.clone());
            }
        };
        tokens("request_prompt_tokens", "Tokens of a prompt", &self.prompt_length);
        tokens("request_generation_tokens", "Tokens generated in a sequence", &self.generation_length);
        tokens("request_params_max_tokens", "Most tokens that a sequence may have", &self.max_tokens);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_passage_is_counted_under_both_families() {
        let counts = Counts::default();
        let mut registry = Registry::default();
        counts.register(&mut registry);
        let monitor = Monitor { registry: Arc::new(registry), counts };
        let mut passage = monitor.passage(7, 20);
        let start = passage.submitted;
        passage.started(start + Duration::from_millis(400));
        passage.token(start + Duration::from_millis(500));
        passage.token(start + Duration::from_millis(560));
        passage.finished(start + Duration::from_millis(560));
        monitor.count_prompt(7, 3);
        let text = monitor.text().unwrap();
        for line in [
            "vllm:generation_tokens_total 2",
            "fastdeploy:generation_tokens_total 2",
            "fastdeploy:prompt_tokens_total 7",
            "fastdeploy:prefix_cache_token_num_total 3",
            "vllm:time_to_first_token_seconds_bucket{le=\"0.5\"} 1",
            "vllm:time_to_first_token_seconds_bucket{le=\"0.25\"} 0",
            "fastdeploy:request_queue_time_seconds_bucket{le=\"0.5\"} 1",
            "vllm:time_per_output_token_seconds_bucket{le=\"0.05\"} 0",
            "vllm:request_success_total 1",
            "fastdeploy:request_prompt_tokens_bucket{le=\"10.0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
    }
}

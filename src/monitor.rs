//! Every metric: name, unit, help.
//!
//! The same values stand under FastDeploy's names and under vLLM's (these with the label `model_name`), so that dashboards
//! and gateways made for either read them; what only Shardwire has is `shardwire:*`. What the engine and the ranks know is
//! read when it is asked for ([`now`], [`ranks`]); what only the way of a request tells is counted as it happens
//! ([`counts`]), at the very places where the answer's `usage` is, so that the two never differ.

mod counts;
mod now;
mod ranks;

use std::{fmt, sync::Arc, time::Instant};

use prometheus_client::{encoding::text, registry::Registry};

use self::counts::Counts;
use crate::traces::{RequestTrace, SequenceTimes};

pub use self::{counts::Ending, now::Sources};

/// Counters and histograms, cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    registry: Arc<Registry>,
    counts: Counts,
}

impl Monitor {
    /// All metrics; `sources` are asked at every reading.
    pub fn new(sources: Sources) -> Self {
        let counts = Counts::default();
        let mut registry = Registry::default();
        counts.register(&mut registry, &sources.model);
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

    /// A request was answered with this status.
    pub fn count_response(&self, status: u16) {
        self.counts.responses.get_or_create(&counts::status_label(status)).inc();
    }

    /// A request wants so many answers to each of its prompts.
    pub fn count_answers_wanted(&self, n: u32) {
        self.counts.answers_wanted.observe(n.into());
    }

    /// A prompt is being computed, these many of its tokens come from the prefix cache.
    pub fn count_prompt(&self, tokens: u64, cached: u64) {
        self.counts.prompt_tokens.inc_by(tokens);
        self.counts.cached_tokens.inc_by(cached);
    }

    /// Follows one sequence, submitted just now, of the request that `trace` is of. With `max_tokens` 0, nothing is to be
    /// generated.
    pub fn passage(&self, prompt_tokens: usize, max_tokens: u32, trace: Option<RequestTrace>) -> Passage {
        self.counts.prompt_length.observe(prompt_tokens as f64);
        if max_tokens > 0 {
            self.counts.max_tokens.observe(f64::from(max_tokens));
        }
        let (counts, submitted) = (self.counts.clone(), Instant::now());
        let (started, first, last) = (None, None, submitted);
        let (tokens, generates, ended) = (0, max_tokens > 0, false);
        Passage { counts, trace, submitted, started, first, last, tokens, generates, ended }
    }
}

/// The times of one sequence. One that is dropped before its end was given up by its client.
pub struct Passage {
    counts: Counts,
    trace: Option<RequestTrace>,
    submitted: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
    tokens: u64,
    generates: bool,
    ended: bool,
}

impl Passage {
    /// It was admitted.
    pub fn started(&mut self, now: Instant) {
        self.started = Some(now);
        self.counts.queue_time.observe(seconds(self.submitted, now));
    }

    /// It has one more token.
    pub fn token(&mut self, now: Instant) {
        self.counts.generation_tokens.inc();
        self.tokens += 1;
        if self.first.is_none() {
            self.first = Some(now);
            let latency = seconds(self.submitted, now);
            self.counts.time_to_first_token.observe(latency);
            self.counts.last_time_to_first_token.set(latency);
            self.counts.prefill_time.observe(seconds(self.computing_since(), now));
        } else {
            let latency = seconds(self.last, now);
            self.counts.time_per_output_token.observe(latency);
            self.counts.last_time_per_output_token.set(latency);
        }
        self.last = now;
    }

    /// All that was wanted of it is there.
    pub fn finished(&mut self, now: Instant) {
        self.ended(now, Ending::Stop);
    }

    /// It came to its end. Only the first end counts.
    pub fn ended(&mut self, now: Instant, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.counts.endings.get_or_create(&ending.label()).inc();
        if let Some(trace) = &self.trace {
            let Self { submitted, started, first, tokens, .. } = *self;
            trace.sequence(SequenceTimes { submitted, started, first, ended: now }, tokens, ending.name());
        }
        if !ending.is_success() {
            return;
        }
        self.counts.successes.inc();
        self.counts.latency.observe(seconds(self.submitted, now));
        self.counts.inference_time.observe(seconds(self.computing_since(), now));
        if self.generates {
            self.count_generation(now);
        }
    }

    fn count_generation(&self, now: Instant) {
        let decode_s = seconds(self.first.unwrap_or(now), now);
        self.counts.generation_length.observe(self.tokens as f64);
        self.counts.decode_time.observe(decode_s);
        if self.tokens > 1 {
            self.counts.mean_time_per_output_token.observe(decode_s / (self.tokens - 1) as f64);
        }
    }

    fn computing_since(&self) -> Instant {
        self.started.unwrap_or(self.submitted)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.ended(Instant::now(), Ending::Abort);
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn monitor() -> Monitor {
        let counts = Counts::default();
        let mut registry = Registry::default();
        counts.register(&mut registry, "tiny");
        Monitor { registry: Arc::new(registry), counts }
    }

    fn check(monitor: &Monitor, lines: &[&str]) {
        let text = monitor.text().unwrap();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no line {line} in\n{text}");
        }
    }

    #[test]
    fn a_passage_is_counted_under_both_families() {
        let monitor = monitor();
        let mut passage = monitor.passage(7, 20, None);
        let start = passage.submitted;
        passage.started(start + Duration::from_millis(400));
        passage.token(start + Duration::from_millis(500));
        passage.token(start + Duration::from_millis(560));
        passage.ended(start + Duration::from_millis(560), Ending::Length);
        drop(passage);
        monitor.count_prompt(7, 3);
        monitor.count_answers_wanted(2);
        check(
            &monitor,
            &[
                "vllm:generation_tokens_total{model_name=\"tiny\"} 2",
                "fastdeploy:generation_tokens_total 2",
                "fastdeploy:prompt_tokens_total 7",
                "fastdeploy:prefix_cache_token_num_total 3",
                "vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.5\"} 1",
                "vllm:time_to_first_token_seconds_bucket{model_name=\"tiny\",le=\"0.25\"} 0",
                "fastdeploy:request_queue_time_seconds_bucket{le=\"0.5\"} 1",
                "fastdeploy:time_per_output_token_seconds_bucket{le=\"0.05\"} 0",
                "fastdeploy:request_success_total 1",
                "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"length\"} 1",
                "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"abort\"} 0",
                "fastdeploy:request_prompt_tokens_bucket{le=\"10.0\"} 1",
                "fastdeploy:first_token_latency 0.5",
                "vllm:request_params_n_bucket{model_name=\"tiny\",le=\"1.0\"} 0",
                "vllm:request_params_n_bucket{model_name=\"tiny\",le=\"2.0\"} 1",
            ],
        );
    }

    #[test]
    fn who_leaves_or_fails_has_no_success() {
        let monitor = monitor();
        drop(monitor.passage(7, 20, None));
        monitor.passage(7, 20, None).ended(Instant::now(), Ending::Error);
        check(
            &monitor,
            &[
                "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"abort\"} 1",
                "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"error\"} 1",
                "fastdeploy:request_success_total 0",
                "fastdeploy:request_generation_tokens_count 0",
                "fastdeploy:e2e_request_latency_seconds_count 0",
            ],
        );
    }
}

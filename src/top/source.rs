//! Asks a server for its ranks and its counters.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{remote::Remote, supervisor::RanksReport};
use crossbeam::channel::{Receiver, bounded};

/// How long one answer may take; a server that hangs is shown as such.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// A server that can be asked.
#[derive(Debug, Clone)]
pub struct Source(Remote);

/// What a server answered at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// `GET /ranks`.
    pub ranks: RanksReport,
    /// `GET /metrics`, as far as it was readable.
    pub counters: Counters,
}

/// The few metrics that are shown; none where the server does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Requests being computed.
    pub running: Option<f64>,
    /// Requests that wait.
    pub waiting: Option<f64>,
    /// Share of the KV cache in use, `0..=1`.
    pub kv_usage: Option<f64>,
    /// Prompt tokens computed since the start.
    pub prompt_tokens: Option<f64>,
    /// Tokens generated since the start.
    pub generation_tokens: Option<f64>,
}

impl Source {
    /// The server at this address, for instance `http://127.0.0.1:8000`; a missing scheme means http.
    pub fn new(url: &str, api_key: Option<&str>) -> Result<Self, String> {
        Remote::new(url, api_key, Some(ANSWER_WITHIN)).map(Self)
    }

    /// Asks once; the error is one line for people.
    pub fn ask(&self) -> Result<Sample, String> {
        let ranks = self.get("/ranks")?;
        let ranks = serde_json::from_str(&ranks)
            .map_err(|error| format!("{}/ranks did not answer as a Shardwire server does: {error}", self.0.url("")))?;
        let counters = self.get("/metrics").map(|text| Counters::parse(&text)).unwrap_or_default();
        Ok(Sample { at: Instant::now(), ranks, counters })
    }

    /// Asks again and again, on a thread of its own that ends when nobody listens.
    pub fn follow(self, interval: Duration) -> Receiver<Result<Sample, String>> {
        let (sender, receiver) = bounded(1);
        thread::spawn(move || {
            while sender.send(self.ask()).is_ok() {
                thread::sleep(interval);
            }
        });
        receiver
    }

    fn get(&self, path: &str) -> Result<String, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.0.url(path));
        let answer = self.0.get(path).map_err(|error| told(&error))?;
        if answer.status == 200 { Ok(answer.text) } else { Err(told(&answer.message())) }
    }
}

impl Counters {
    /// Out of Prometheus' text format, under vLLM's names.
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| -> Option<f64> {
            let values = text.lines().filter_map(|line| sample_of(line, name));
            values.reduce(|sum, value| sum + value)
        };
        let counter = |name: &str| value(name).or_else(|| value(&format!("{name}_total")));
        Self {
            running: value("vllm:num_requests_running"),
            waiting: value("vllm:num_requests_waiting"),
            kv_usage: value("vllm:kv_cache_usage_perc"),
            prompt_tokens: counter("vllm:prompt_tokens"),
            generation_tokens: counter("vllm:generation_tokens"),
        }
    }
}

/// The value of a line `name{labels} value`, if it is of this metric.
fn sample_of(line: &str, name: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let value = match rest.strip_prefix('{') {
        Some(labelled) => labelled.split_once('}')?.1,
        None => rest.strip_prefix(' ')?,
    };
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_among_other_lines() {
        let text = "# HELP vllm:num_requests_running Requests.\n# TYPE vllm:num_requests_running gauge\n\
                    vllm:num_requests_running{model_name=\"m\"} 3\nvllm:num_requests_waiting 2.0\n\
                    vllm:kv_cache_usage_perc{model_name=\"m\"} 0.25\nvllm:generation_tokens_total{a=\"1\"} 40\n\
                    vllm:generation_tokens_total{a=\"2\"} 2\nother 1\n";
        let expected = Counters {
            running: Some(3.0),
            waiting: Some(2.0),
            kv_usage: Some(0.25),
            prompt_tokens: None,
            generation_tokens: Some(42.0),
        };
        assert_eq!(Counters::parse(text), expected);
        assert_eq!(Counters::parse(""), Counters::default());
    }

    #[test]
    fn an_unreachable_server_is_told_with_its_address() {
        // Port 1 is reserved; nothing listens there.
        let error = Source::new("127.0.0.1:1/", None).unwrap().ask().unwrap_err();
        assert!(error.starts_with("http://127.0.0.1:1/ranks: "), "{error}");
    }
}

//! What the times of many requests come down to.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::load::{Run, Sample};

/// How a quantity is spread over requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// One in ten is larger.
    pub p90: f64,
    /// One in a hundred is larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub count: usize,
}

/// The figures of a round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// From the first request's start to the last one's end.
    pub duration_s: f64,
    /// Requests with a whole answer.
    pub requests_ok: u64,
    /// The others.
    pub requests_failed: u64,
    /// Why, with the number of requests.
    pub failures: BTreeMap<String, u64>,
    /// Tokens of prompts that were answered.
    pub input_tokens: u64,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// Answered requests whose tokens the server did not tell; the pieces of their answers count instead, and their prompts
    /// as they were meant.
    pub requests_without_usage: u64,
    /// Whole answers per second.
    pub requests_per_s: f64,
    /// Tokens of prompts per second.
    pub input_tokens_per_s: f64,
    /// Tokens of answers per second.
    pub output_tokens_per_s: f64,
    /// Both.
    pub total_tokens_per_s: f64,
    /// Time to first token: from the request's start to its first piece.
    pub ttft_ms: Option<Spread>,
    /// Time per output token: from the first piece to the last, by the tokens after the first.
    pub tpot_ms: Option<Spread>,
    /// Inter-token latency: from each piece to the next.
    pub itl_ms: Option<Spread>,
    /// From the request's start to the end of its answer.
    pub e2e_ms: Option<Spread>,
    /// How much of one core the client took.
    pub client_cpu_share: f64,
}

impl Spread {
    /// Of these values; none of none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (max, count) = (*values.last()?, values.len());
        let at = |share| percentile(&values, share);
        let mean = values.iter().sum::<f64>() / count as f64;
        Some(Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max, count })
    }

    /// The medians of each number.
    pub fn median(spreads: &[Self]) -> Option<Self> {
        let of = |part: fn(&Self) -> f64| median(spreads.iter().map(part).collect());
        Some(Self {
            mean: of(|spread| spread.mean)?,
            p50: of(|spread| spread.p50)?,
            p90: of(|spread| spread.p90)?,
            p99: of(|spread| spread.p99)?,
            max: of(|spread| spread.max)?,
            count: spreads.iter().map(|spread| spread.count).sum(),
        })
    }
}

impl Figures {
    /// Of one round.
    pub fn of(run: &Run) -> Self {
        let answers: Vec<_> =
            run.samples.iter().filter_map(|sample| Some((sample, sample.outcome.as_ref().ok()?))).collect();
        let mut failures = BTreeMap::new();
        for failure in run.samples.iter().filter_map(|sample| sample.outcome.as_ref().err()) {
            *failures.entry(failure.clone()).or_insert(0) += 1;
        }
        let duration_s = run.duration.as_secs_f64();
        let per_s = |count: u64| count as f64 / duration_s.max(1e-9);
        let input_tokens = answers.iter().map(|(sample, _)| sample.input_tokens()).sum();
        let output_tokens = answers.iter().map(|(_, answer)| answer.tokens()).sum();
        let requests_ok = answers.len() as u64;
        let spread = |times: Vec<Duration>| Spread::of(times.into_iter().map(ms).collect());
        Self {
            duration_s,
            requests_ok,
            requests_failed: run.samples.len() as u64 - requests_ok,
            failures,
            input_tokens,
            output_tokens,
            requests_without_usage: answers.iter().filter(|(_, answer)| answer.output_tokens.is_none()).count() as u64,
            requests_per_s: per_s(requests_ok),
            input_tokens_per_s: per_s(input_tokens),
            output_tokens_per_s: per_s(output_tokens),
            total_tokens_per_s: per_s(input_tokens + output_tokens),
            ttft_ms: spread(answers.iter().map(|(_, answer)| answer.first).collect()),
            tpot_ms: spread(answers.iter().filter_map(|(_, answer)| answer.per_token()).collect()),
            itl_ms: spread(answers.iter().flat_map(|(_, answer)| answer.gaps.iter().copied()).collect()),
            e2e_ms: spread(answers.iter().map(|(_, answer)| answer.end).collect()),
            client_cpu_share: run.client_cpu.as_secs_f64() / duration_s.max(1e-9),
        }
    }

    /// Of several rounds: of each rate and time the median, of what is counted the sum. None of no round.
    pub fn median(rounds: &[Self]) -> Option<Self> {
        let of = |part: fn(&Self) -> f64| median(rounds.iter().map(part).collect());
        let sum = |part: fn(&Self) -> u64| rounds.iter().map(part).sum();
        let spread =
            |part: fn(&Self) -> Option<Spread>| Spread::median(&rounds.iter().filter_map(part).collect::<Vec<_>>());
        let mut failures = BTreeMap::new();
        for (why, count) in rounds.iter().flat_map(|round| &round.failures) {
            *failures.entry(why.clone()).or_insert(0) += count;
        }
        Some(Self {
            duration_s: of(|round| round.duration_s)?,
            requests_ok: sum(|round| round.requests_ok),
            requests_failed: sum(|round| round.requests_failed),
            failures,
            input_tokens: sum(|round| round.input_tokens),
            output_tokens: sum(|round| round.output_tokens),
            requests_without_usage: sum(|round| round.requests_without_usage),
            requests_per_s: of(|round| round.requests_per_s)?,
            input_tokens_per_s: of(|round| round.input_tokens_per_s)?,
            output_tokens_per_s: of(|round| round.output_tokens_per_s)?,
            total_tokens_per_s: of(|round| round.total_tokens_per_s)?,
            ttft_ms: spread(|round| round.ttft_ms),
            tpot_ms: spread(|round| round.tpot_ms),
            itl_ms: spread(|round| round.itl_ms),
            e2e_ms: spread(|round| round.e2e_ms),
            client_cpu_share: of(|round| round.client_cpu_share)?,
        })
    }
}

impl Sample {
    /// Tokens of the prompt as the server counted them, else as they were meant.
    pub fn input_tokens(&self) -> u64 {
        let told = self.outcome.as_ref().ok().and_then(|answer| answer.input_tokens);
        told.unwrap_or(u64::from(self.asked_input_tokens))
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The median of some values; none of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| percentile(&values, 0.5))
}

/// Of sorted values, at least one, the one below which this share lies; between two neighbours in proportion.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * share;
    let below = sorted[place as usize];
    let above = sorted[(place as usize + 1).min(sorted.len() - 1)];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{answer::Answer, load::Ended};

    #[test]
    fn percentiles_lie_between_neighbours() {
        for (values, share, expected) in [
            (vec![3.0], 0.99, 3.0),
            (vec![1.0, 2.0], 0.5, 1.5),
            (vec![1.0, 2.0, 3.0, 4.0, 5.0], 0.5, 3.0),
            (vec![0.0, 10.0], 0.9, 9.0),
            ((0..=100).map(f64::from).collect(), 0.99, 99.0),
            (vec![1.0, 2.0], 1.0, 2.0),
        ] {
            assert!((percentile(&values, share) - expected).abs() < 1e-9, "{values:?} {share}");
        }
        assert_eq!((Spread::of(Vec::new()), median(Vec::new())), (None, None));
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.mean, spread.p50, spread.max, spread.count), (2.5, 2.5, 4.0, 4));
    }

    fn run(duration_s: u64, first_ms: &[u64]) -> Run {
        let ms = Duration::from_millis;
        let answer = |first: &u64| Answer {
            first: ms(*first),
            last: ms(first + 30),
            end: ms(first + 40),
            gaps: vec![ms(10), ms(20)],
            input_tokens: Some(8),
            output_tokens: Some(4),
        };
        let sample = |outcome| Sample { start: Duration::ZERO, asked_input_tokens: 9, outcome };
        let mut samples: Vec<_> = first_ms.iter().map(|first| sample(Ok(answer(first)))).collect();
        samples.push(sample(Err("HTTP 429: later".into())));
        let without_usage = Answer { input_tokens: None, output_tokens: None, ..answer(&100) };
        samples.push(sample(Ok(without_usage)));
        let duration = Duration::from_secs(duration_s);
        Run { samples, duration, client_cpu: duration / 10, ended: Ended::Whole }
    }

    #[test]
    fn figures_are_counted_from_whole_answers() {
        let figures = Figures::of(&run(2, &[100, 200]));
        assert_eq!((figures.requests_ok, figures.requests_failed, figures.requests_without_usage), (3, 1, 1));
        assert_eq!(figures.failures, BTreeMap::from([("HTTP 429: later".into(), 1)]));
        // Without usage: three pieces, and a prompt as it was meant.
        assert_eq!((figures.input_tokens, figures.output_tokens), (8 + 8 + 9, 4 + 4 + 3));
        assert_eq!((figures.output_tokens_per_s, figures.total_tokens_per_s, figures.requests_per_s), (5.5, 18.0, 1.5));
        let (ttft, tpot, itl) = (figures.ttft_ms.unwrap(), figures.tpot_ms.unwrap(), figures.itl_ms.unwrap());
        assert_eq!((ttft.p50, ttft.max, ttft.count), (100.0, 200.0, 3));
        assert_eq!((tpot.p50, tpot.max), (10.0, 15.0));
        assert_eq!((itl.p50, itl.count), (15.0, 6));
        assert!((figures.client_cpu_share - 0.1).abs() < 1e-9);
    }

    #[test]
    fn rounds_come_down_to_their_medians() {
        let rounds: Vec<_> = [(2, 100), (4, 300), (8, 200)].map(|(s, first)| Figures::of(&run(s, &[first]))).into();
        let median = Figures::median(&rounds).unwrap();
        assert_eq!((median.duration_s, median.requests_ok, median.failures["HTTP 429: later"]), (4.0, 6, 3));
        assert_eq!((median.ttft_ms.unwrap().max, median.ttft_ms.unwrap().count), (200.0, 6));
        assert_eq!(Figures::median(&[]), None);
    }
}

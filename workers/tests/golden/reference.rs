//! What the reference computed, and how near our logits must come.

use std::sync::Mutex;

use serde::Deserialize;

/// The golden.json of a model: what these tests use of it.
#[derive(Deserialize)]
pub struct Golden {
    pub cases: Vec<Case>,
    #[serde(default)]
    pub chat: Vec<ChatCase>,
}

/// A prompt with its logits and its greedy continuation.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub prompt_ids: Vec<u32>,
    /// All logits at the last prompt token.
    pub last_logits: Vec<f32>,
    /// The five largest, by position …
    pub top5_ids: Vec<Vec<u32>>,
    /// … with their values.
    pub top5_logits: Vec<Vec<f32>>,
    /// Of all logits, by position.
    pub logsumexp: Vec<f32>,
    pub prompt_logprobs: Vec<Option<f32>>,
    pub greedy: Greedy,
}

/// A rendered chat with its greedy continuation.
#[derive(Deserialize)]
pub struct ChatCase {
    pub name: String,
    pub prompt_ids: Vec<u32>,
    pub greedy: Greedy,
}

/// The reference's most likely tokens, one after the other.
#[derive(Deserialize)]
pub struct Greedy {
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
    /// By how much each token's logit exceeded the next best.
    pub margins: Vec<f32>,
}

/// Compares, and remembers the worst that it let pass.
pub struct Judge {
    tolerance: Tolerance,
    worst: Mutex<Worst>,
}

/// The worst errors of many comparisons.
#[derive(Debug, Clone, Copy, Default)]
pub struct Worst {
    /// Of a logit, absolute.
    pub logit: f32,
    /// Of a log-probability, absolute.
    pub logprob: f32,
    /// Greedy tokens that were compared …
    pub tokens: usize,
    /// … and those of them that were the reference's.
    pub equal: usize,
}

/// How near is near enough.
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// Of a logit, absolute.
    pub logit: f32,
    /// Of a log-probability, absolute.
    pub logprob: f32,
    /// A token must be the reference's where the reference's margin is greater.
    pub margin: f32,
}

impl Golden {
    pub fn read(name: &str) -> Self {
        serde_json::from_slice(&std::fs::read(crate::fixtures::golden(name)).unwrap()).unwrap()
    }
}

impl Judge {
    pub fn new(tolerance: Tolerance) -> Self {
        Self { tolerance, worst: Mutex::default() }
    }

    pub fn worst(&self) -> Worst {
        *self.worst.lock().unwrap()
    }

    /// Every position of a prompt: `rows[i]` are our logits after its token `i`.
    pub fn check_prompt(&self, case: &Case, rows: &[Vec<f32>]) {
        let name = &case.name;
        assert_eq!(rows.len(), case.prompt_ids.len(), "{name}");
        self.check_logits(name, rows.last().unwrap(), &case.last_logits);
        for (position, row) in rows.iter().enumerate() {
            let place = format!("{name}, position {position}");
            let of_golden: Vec<f32> = case.top5_ids[position].iter().map(|&id| row[id as usize]).collect();
            self.check_logits(&place, &of_golden, &case.top5_logits[position]);
            self.check_logits(&place, &largest(row, 5), &case.top5_logits[position]);
            self.logprob(&format!("{place}, logsumexp"), logsumexp(row), case.logsumexp[position]);
        }
        self.check_prompt_logprobs(name, &case.prompt_ids, &case.prompt_logprobs, rows);
    }

    /// Entry `i` of `expected` is the log-probability of token `i` after those before it.
    pub fn check_prompt_logprobs(&self, name: &str, tokens: &[u32], expected: &[Option<f32>], rows: &[Vec<f32>]) {
        assert_eq!(expected.len(), tokens.len(), "{name}");
        for (position, expected) in expected.iter().enumerate().skip(1) {
            let found = logprob(&rows[position - 1], tokens[position]);
            self.logprob(&format!("{name}, log-probability of token {position}"), found, expected.unwrap());
        }
    }

    pub fn check_logits(&self, place: &str, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len(), "{place}");
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = near(&format!("{place}, logit {index}"), *found, *expected, self.tolerance.logit);
            let mut worst = self.worst.lock().unwrap();
            worst.logit = worst.logit.max(error);
        }
    }

    /// Step `step` of a greedy continuation, whose logits are `row`.
    pub fn check_greedy(&self, name: &str, greedy: &Greedy, step: usize, row: &[f32]) {
        let (expected, found) = (greedy.ids[step], argmax(row));
        let place = format!("{name}, log-probability of greedy step {step}");
        self.logprob(&place, logprob(row, expected), greedy.logprobs[step]);
        if greedy.margins[step] > self.tolerance.margin {
            assert_eq!(found, expected, "{name}, greedy step {step}");
        }
        let mut worst = self.worst.lock().unwrap();
        worst.tokens += 1;
        worst.equal += usize::from(found == expected);
    }

    fn logprob(&self, place: &str, found: f32, expected: f32) {
        let error = near(place, found, expected, self.tolerance.logprob);
        let mut worst = self.worst.lock().unwrap();
        worst.logprob = worst.logprob.max(error);
    }
}

fn near(place: &str, found: f32, expected: f32, tolerance: f32) -> f32 {
    let error = (found - expected).abs();
    assert!(error <= tolerance, "{place}: {found}, the reference has {expected}");
    error
}

fn largest(row: &[f32], count: usize) -> Vec<f32> {
    let mut values = row.to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    values.truncate(count);
    values
}

fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.expect("logits are not empty").0 as u32
}

/// In f64, so that the comparison adds no error of its own.
pub fn logsumexp(row: &[f32]) -> f32 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    (max + sum.ln()) as f32
}

pub fn logprob(row: &[f32], token: u32) -> f32 {
    row[token as usize] - logsumexp(row)
}

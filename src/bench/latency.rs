//! `shardwire bench latency`: one batch at a time.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Halt, SOME_FAILED,
    answer::Answer,
    conditions::Conditions,
    end_of,
    figures::{Spread, median, ms},
    load::{Ended, Pacing, Run, Sample},
    results,
    session::Session,
    table::{PARTS, aligned, number},
    workload::Workload,
};
use crate::config::{BenchLatencyFlags, PromptFlags};

/// What a batch brought.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Iteration {
    /// From its start to the end of its last answer.
    latency_ms: f64,
    /// Until every answer has its first piece.
    prefill_ms: f64,
    /// Tokens of all prompts per second of that time.
    prefill_tokens_per_s: f64,
    /// Tokens behind the first ones, per second between the first piece of all and the last; none for answers of one token.
    decode_tokens_per_s: Option<f64>,
}

impl Iteration {
    /// Of a batch whose requests were all answered.
    fn of(samples: &[Sample]) -> Option<Self> {
        let answers: Vec<(&Sample, &Answer)> =
            samples.iter().map(|sample| Some((sample, sample.outcome.as_ref().ok()?))).collect::<Option<_>>()?;
        let latest = |moment: fn(&Answer) -> Duration| {
            answers.iter().map(|(sample, answer)| sample.start + moment(answer)).max()
        };
        let (prefilled, end) = (latest(|answer| answer.first)?, latest(|answer| answer.end)?);
        let first = answers.iter().map(|(sample, answer)| sample.start + answer.first).min()?;
        let decoding = latest(|answer| answer.last)?.saturating_sub(first);
        let input: u64 = samples.iter().map(Sample::input_tokens).sum();
        let decoded: u64 = answers.iter().map(|(_, answer)| answer.tokens().saturating_sub(1)).sum();
        let per_s = |tokens: u64, time: Duration| tokens as f64 / time.as_secs_f64();
        Some(Self {
            latency_ms: ms(end),
            prefill_ms: ms(prefilled),
            prefill_tokens_per_s: per_s(input, prefilled),
            decode_tokens_per_s: (decoded > 0 && !decoding.is_zero()).then(|| per_s(decoded, decoding)),
        })
    }
}

/// Measures; the exit code.
pub fn measure(flags: &BenchLatencyFlags) -> Result<u8, Halt> {
    results::check_writable([flags.asking.json.as_deref(), None])?;
    let mut session = Session::open(&flags.asking, flags.batch_size)?;
    let batch = flags.batch_size as usize;
    // Batches of equal length, and no prompt twice.
    let mut workload = Workload::open(&flags.asking, &PromptFlags::FIXED, 0, &session.target)?;
    for _ in 0..flags.warmup {
        let requests = workload.round(batch, &session.target);
        session.warm_up(&requests, batch)?;
    }
    let (mut samples, mut iterations, mut ended) = (Vec::new(), Vec::new(), Ended::Whole);
    for iteration in 0..flags.num_iters {
        let requests = workload.round(batch, &session.target);
        let label = format!("batch {} of {}", iteration + 1, flags.num_iters);
        let run: Run = session.run(&requests, Pacing { arrivals: None, open_max: batch }, label);
        ended = run.ended;
        iterations.extend(Iteration::of(&run.samples).filter(|_| run.samples.len() == batch));
        samples.push(run.samples);
        if ended != Ended::Whole {
            break;
        }
    }
    let name = format!("{}, {batch} at once", workload.name);
    let conditions = Conditions::of(&session.target, &flags.asking.server.serve_words, name);
    println!("{}\n{}", conditions.text(), told(&iterations, &samples).trim_end());
    if let Some(path) = &flags.asking.json {
        let all = json(flags.batch_size, &conditions, &iterations, &samples, &ended);
        results::write(path, &format!("{all}\n"))?;
    }
    let failed = samples.iter().flatten().any(|sample| sample.outcome.is_err());
    end_of(&mut session, &ended, if failed { SOME_FAILED } else { 0 })
}

/// The spreads that are told, by their names in JSON and in the table.
fn spreads(iterations: &[Iteration], samples: &[Vec<Sample>]) -> [(&'static str, &'static str, Option<Spread>); 4] {
    let answers = || samples.iter().flatten().filter_map(|sample| sample.outcome.as_ref().ok());
    let of_batches = |part: fn(&Iteration) -> f64| Spread::of(iterations.iter().map(part).collect());
    [
        ("latency_ms", "latency", of_batches(|iteration| iteration.latency_ms)),
        ("prefill_ms", "prefill", of_batches(|iteration| iteration.prefill_ms)),
        ("ttft_ms", "TTFT", Spread::of(answers().map(|answer| ms(answer.first)).collect())),
        ("itl_ms", "ITL", Spread::of(answers().flat_map(|answer| &answer.gaps).map(|&gap| ms(gap)).collect())),
    ]
}

/// Tokens per second: of prefill, and of decode.
fn speeds(iterations: &[Iteration]) -> (Option<f64>, Option<f64>) {
    let prefill = iterations.iter().map(|iteration| iteration.prefill_tokens_per_s).collect();
    let decode = iterations.iter().filter_map(|iteration| iteration.decode_tokens_per_s).collect();
    (median(prefill), median(decode))
}

fn told(iterations: &[Iteration], samples: &[Vec<Sample>]) -> String {
    let heads = PARTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut rows = vec![("milliseconds".to_owned(), heads)];
    for (_, name, spread) in spreads(iterations, samples) {
        let cells = PARTS.iter().map(|(_, of)| spread.map_or("–".into(), |spread| number(of(&spread)))).collect();
        rows.push((name.to_owned(), cells));
    }
    let (prefill, decode) = speeds(iterations);
    let speed = |speed: Option<f64>| speed.map_or("–".into(), number);
    let mut text = format!(
        "{} of {} batches whole; prefill {} tokens/s, decode {} tokens/s (medians)\n\n{}",
        iterations.len(),
        samples.len(),
        speed(prefill),
        speed(decode),
        aligned(&rows)
    );
    let mut failures: Vec<&String> =
        samples.iter().flatten().filter_map(|sample| sample.outcome.as_ref().err()).collect();
    failures.sort();
    for same in failures.chunk_by(|a, b| a == b) {
        text.push_str(&format!("failed: {} × {}\n", same.len(), same[0]));
    }
    text
}

fn json(
    batch_size: u32,
    conditions: &Conditions,
    iterations: &[Iteration],
    samples: &[Vec<Sample>],
    ended: &Ended,
) -> Value {
    let (prefill, decode) = speeds(iterations);
    let figures: serde_json::Map<_, _> =
        spreads(iterations, samples).into_iter().map(|(name, _, spread)| (name.to_owned(), json!(spread))).collect();
    let batch = |samples: &Vec<Sample>| samples.iter().map(results::sample).collect::<Vec<_>>();
    json!({
        "command": "bench latency",
        "ended": results::ended_name(ended),
        "conditions": conditions.json(),
        "batch_size": batch_size,
        "figures": figures,
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "iterations": iterations,
        "requests": samples.iter().map(batch).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_slow_as_its_slowest_answer() {
        let ms = Duration::from_millis;
        let sample = |start, first| Sample {
            start: ms(start),
            asked_input_tokens: 50,
            outcome: Ok(Answer {
                first: ms(first),
                last: ms(first + 100),
                end: ms(first + 110),
                gaps: vec![ms(50), ms(50)],
                input_tokens: Some(50),
                output_tokens: Some(3),
            }),
        };
        let batch = [sample(0, 100), sample(10, 190)];
        let found = Iteration::of(&batch).unwrap();
        assert_eq!((found.latency_ms, found.prefill_ms, found.prefill_tokens_per_s), (310.0, 200.0, 500.0));
        // Four tokens between 100 ms and 300 ms.
        assert_eq!(found.decode_tokens_per_s, Some(20.0));
        let failed = Sample { outcome: Err("x".into()), ..sample(0, 1) };
        assert_eq!((Iteration::of(&[failed]), Iteration::of(&[])), (None, None));
        let (prefill, decode) = speeds(&[found]);
        assert_eq!((prefill, decode), (Some(500.0), Some(20.0)));
    }
}

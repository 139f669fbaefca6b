//! The default model itself, 135M parameters in Q4_1 and Q8_0.
//!
//! The tolerances are those of the small models: though logits reach 25 and layers are thirty, sums of another order move a
//! logit by 4e-5 (measured on one, two and three ranks), activations rounded to 16 bits by 3e-3, and weights as well, where
//! machines multiply tiles, by 1.1e-2. Activations rounded to 8 bits, a wrong block layout or one layer's missing norm would
//! move them by 0.1 and more.

use kernels::cpu::Rounding::{Bytes, Nothing, Shorts};
use serde::Deserialize;
use workers::weights::Checkpoint;

use crate::{
    fixtures,
    ranks::{Rank, Ranks, Sequence, Wanted, on_ranks, step_all},
    reference::{Greedy, Judge, Tolerance, logprob, logsumexp},
};

/// Where activations are rounded, and weights as well.
const WORDS: Tolerance = Tolerance { logit: 3e-2, logprob: 3e-2, margin: 5e-2 };

fn tolerance(ranks: &Ranks) -> Tolerance {
    if ranks.rounding == Nothing { ranks.tolerance() } else { WORDS }
}

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    sampling: SamplingPrompt,
    perplexity: Perplexity,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    prompt_ids: Vec<u32>,
    /// The 20 most likely tokens after the prompt …
    top_ids: Vec<u32>,
    /// … with their logits.
    top_logits: Vec<f32>,
    logsumexp: f32,
    prompt_logprobs: Vec<Option<f32>>,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct SamplingPrompt {
    prompt_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Perplexity {
    token_ids: Vec<u32>,
    chunk: usize,
    chunks: Vec<Chunk>,
}

#[derive(Deserialize)]
struct Chunk {
    nll_sum: f32,
}

fn open() -> (Checkpoint, Golden) {
    let golden = serde_json::from_slice(&std::fs::read(fixtures::golden("smollm2/golden.json")).unwrap()).unwrap();
    (Checkpoint::open(&fixtures::smollm2()).unwrap(), golden)
}

fn full_logits(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixtures::golden("smollm2").join(format!("last_logits_{name}.f32le.bin"))).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The logits after every token of a prompt, and the sequence to be continued.
fn prompt(rank: &mut Rank, tokens: &[u32]) -> (Sequence, Vec<Vec<f32>>) {
    let mut sequence = Sequence::new(tokens);
    let rows = rank.step(&mut [(&mut sequence, tokens.len())], Wanted::EveryRow).remove(0);
    (sequence, rows)
}

fn check_prompt(judge: &Judge, case: &Case, rows: &[Vec<f32>]) {
    let (name, row) = (&case.name, rows.last().unwrap());
    let of_golden: Vec<f32> = case.top_ids.iter().map(|&id| row[id as usize]).collect();
    judge.check_logits(name, &of_golden, &case.top_logits);
    judge.check_logits(name, &[logsumexp(row)], &[case.logsumexp]);
    judge.check_prompt_logprobs(name, &case.prompt_ids, &case.prompt_logprobs, rows);
}

/// All prompts in one batch, then all continuations together.
fn check_cases(rank: &mut Rank, cases: &[Case], tolerance: Tolerance) {
    let judge = Judge::new(tolerance);
    let mut sequences: Vec<Sequence> = cases.iter().map(|case| Sequence::new(&case.prompt_ids)).collect();
    let mut rows = step_all(rank, &mut sequences, Wanted::EveryRow);
    cases.iter().zip(&rows).for_each(|(case, rows)| check_prompt(&judge, case, rows));
    for step in 0..cases[0].greedy.ids.len() {
        for ((case, rows), sequence) in cases.iter().zip(&rows).zip(&mut sequences) {
            judge.check_greedy(&case.name, &case.greedy, step, rows.last().unwrap());
            sequence.push(case.greedy.ids[step]);
        }
        rows = step_all(rank, &mut sequences, Wanted::LastRows);
    }
}

/// Nine query heads over two ranks: five and four, the middle KV head on both.
#[test]
fn smollm2_agrees_on_one_and_on_two_ranks() {
    let (checkpoint, golden) = open();
    for (world_size, rounding) in [(1, Nothing), (2, Nothing), (1, Shorts), (2, Shorts)] {
        let ranks = Ranks { rounding, ..world_size.into() };
        on_ranks(&checkpoint, ranks, 4096, |rank| check_cases(rank, &golden.cases, tolerance(&ranks)));
    }
}

/// Every one of 49,152 logits, on as many ranks as there are KV heads.
#[test]
fn smollm2_agrees_in_all_logits() {
    let (checkpoint, golden) = open();
    let capital = golden.cases.iter().find(|case| case.name == "capital").expect("the case with all logits");
    for rounding in [Nothing, Shorts] {
        let ranks = Ranks { rounding, ..3.into() };
        on_ranks(&checkpoint, ranks, 512, |rank| {
            for (name, tokens) in [("capital", &capital.prompt_ids), ("sampling", &golden.sampling.prompt_ids)] {
                let (_, rows) = prompt(rank, tokens);
                Judge::new(tolerance(&ranks)).check_logits(name, rows.last().unwrap(), &full_logits(name));
            }
        });
    }
}

/// The negative log-likelihood of the first 512 tokens of a long text: a small error in every position shows in the sum.
#[test]
fn smollm2_finds_a_long_text_as_likely_as_the_reference_does() {
    let (checkpoint, golden) = open();
    let Perplexity { token_ids, chunk, chunks } = golden.perplexity;
    let tokens = &token_ids[..chunk];
    for (rounding, tolerance) in [(Nothing, 1e-5), (Shorts, 1e-4), (Bytes, 5e-3)] {
        let sum = on_ranks(&checkpoint, Ranks { rounding, ..2.into() }, 1024, |rank| {
            let (_, rows) = prompt(rank, tokens);
            let scored = rows.iter().zip(&tokens[1..]);
            scored.map(|(row, &token)| -f64::from(logprob(row, token))).sum::<f64>()
        });
        let expected = f64::from(chunks[0].nll_sum);
        assert!((sum - expected).abs() / expected < tolerance, "{sum}, the reference has {expected}, {rounding:?}");
    }
}

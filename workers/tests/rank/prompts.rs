//! Prompts that are scored or pooled, against the reference.

use kernels::dtype::DType;
use serde_json::Value;
use workers::link::report::{Logprobs, StepReport};
use workers::link::sampling::Sampling;
use workers::link::step::{Chunk, NewSequence, Pooling, SequenceId};
use workers::{models::ModelConfig, weights::Checkpoint};

use crate::folder;
use crate::group::{Ranks, chunk};

/// See the tolerances of the golden test: a log-probability subtracts two logits, each within 1e-3.
const LOGPROB_TOLERANCE: f64 = 2e-3;
const LOGIT_TOLERANCE: f64 = 1e-3;

struct Case {
    tokens: Vec<u32>,
    /// Of each token, given those before it; none of the first.
    logprobs: Vec<Option<f64>>,
    /// By position.
    top5_ids: Vec<Vec<u32>>,
    last_logits: Vec<f64>,
}

fn cases(model: &str) -> Vec<Case> {
    let golden = std::fs::read(folder(model).join("golden.json")).expect("the golden file");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let case = |case: &Value| Case {
        tokens: serde_json::from_value(case["prompt_ids"].clone()).expect("ids"),
        logprobs: serde_json::from_value(case["prompt_logprobs"].clone()).expect("numbers"),
        top5_ids: serde_json::from_value(case["top5_ids"].clone()).expect("ids"),
        last_logits: serde_json::from_value(case["last_logits"].clone()).expect("numbers"),
    };
    golden["cases"].as_array().expect("cases").iter().map(case).collect()
}

fn sequence(id: u64, tokens: &[u32], pooling: Option<Pooling>) -> NewSequence {
    let sampling = Sampling { prompt_alternatives: 5, ..Sampling::default() };
    NewSequence { id: SequenceId(id), tokens: tokens.to_vec(), prompt_length: tokens.len() as u32, sampling, pooling }
}

/// The steps' reports of one prompt in chunks of `most` tokens.
fn run(ranks: &mut Ranks, new: NewSequence, most: usize, make: impl Fn(usize, usize) -> Chunk) -> Vec<StepReport> {
    let (id, length) = (new.id.0, new.tokens.len());
    ranks.meet(new);
    let chunks = (0..length).step_by(most).map(|start| make(start, length.min(start + most)));
    let reports = chunks.map(|chunk| ranks.step(vec![chunk])).collect();
    ranks.forget(id);
    reports
}

fn scored(ranks: &mut Ranks, id: u64, tokens: &[u32], most: usize) -> Vec<Logprobs> {
    let last = tokens.len() as u32 - 1;
    let reports = run(ranks, sequence(id, tokens, None), most, |start, end| Chunk {
        scored: start as u32..last.min(end as u32),
        ..chunk(id, start, end, end == tokens.len())
    });
    let parts = reports.into_iter().flat_map(|report| report.prompt_logprobs);
    parts.flat_map(|part| part.entries).collect()
}

#[test]
fn scored_prompts_equal_the_reference_in_any_chunks() {
    for (model, world_sizes) in [("llama3_rope", vec![1, 2, 3]), ("llama_basic", vec![3]), ("ernie45", vec![2])] {
        for world_size in world_sizes {
            let mut ranks = Ranks::start(model, world_size);
            for (index, case) in cases(model).iter().enumerate() {
                let id = index as u64 * 10;
                let whole = scored(&mut ranks, id, &case.tokens, 256);
                check_scored(case, &whole, &format!("{model}, {world_size} ranks, case {index}"));
                for (offset, most) in [(1, 7), (2, 64), (3, 65)] {
                    assert_eq!(scored(&mut ranks, id + offset, &case.tokens, most), whole, "chunks of {most}");
                }
            }
        }
    }
}

fn check_scored(case: &Case, found: &[Logprobs], place: &str) {
    assert_eq!(found.len(), case.tokens.len() - 1, "{place}");
    for (position, found) in found.iter().enumerate() {
        let expected = case.logprobs[position + 1].expect("all but the first");
        let difference = (f64::from(found.sampled) - expected).abs();
        assert!(difference <= LOGPROB_TOLERANCE, "{place}, position {position}: {found:?}, not {expected}");
        let (mut top, mut reference) =
            (found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), case.top5_ids[position].clone());
        top.sort_unstable();
        reference.sort_unstable();
        assert_eq!(top, reference, "{place}, position {position}");
        let better = found.top.iter().filter(|(_, logprob)| *logprob > found.sampled).count();
        assert!(found.rank as usize == better || better == 5, "{place}, position {position}: {found:?}");
    }
}

#[test]
fn many_scored_prompts_share_a_step() {
    let mut ranks = Ranks::start("llama3_rope", 2);
    let prompts: Vec<Vec<u32>> = [40, 2, 57, 31].map(crate::prompt).to_vec();
    let alone: Vec<_> =
        prompts.iter().enumerate().map(|(id, tokens)| scored(&mut ranks, id as u64, tokens, 256)).collect();
    let batch = prompts.iter().enumerate().map(|(index, tokens)| {
        let last = tokens.len() - 1;
        // The middle of each only: what is scored need not begin with the chunk, nor end with it.
        let scored = (last / 3) as u32..(last - last / 4) as u32;
        Chunk { scored, ..chunk(10 + index as u64, 0, tokens.len(), false) }
    });
    let batch: Vec<Chunk> = batch.collect();
    prompts.iter().enumerate().for_each(|(index, tokens)| ranks.meet(sequence(10 + index as u64, tokens, None)));
    let report = ranks.step(batch.clone());
    assert_eq!(report.prompt_logprobs.len(), prompts.len());
    for ((part, chunk), alone) in report.prompt_logprobs.iter().zip(&batch).zip(&alone) {
        assert_eq!(part.id, chunk.id);
        assert_eq!(part.entries, alone[chunk.scored.start as usize..chunk.scored.end as usize]);
    }
}

fn pooled(ranks: &mut Ranks, id: u64, tokens: &[u32], pooling: Pooling, most: usize) -> Vec<f32> {
    let reports = run(ranks, sequence(id, tokens, Some(pooling)), most, |start, end| chunk(id, start, end, false));
    let (last, before) = reports.split_last().expect("a step at least");
    assert!(before.iter().all(|report| report.embeddings.is_empty()), "the prompt's end comes last");
    assert_eq!((last.embeddings.len(), last.embeddings[0].id.0, last.tokens.len()), (1, id, 0));
    last.embeddings[0].values.clone()
}

/// The model's head, `[vocabulary][hidden size]`.
fn head(model: &str) -> Vec<Vec<f64>> {
    let checkpoint = Checkpoint::open(&folder(model)).expect("the model");
    let name = if checkpoint.config().tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let ModelConfig { vocab_size, hidden_size, .. } = *checkpoint.config();
    let matrix = checkpoint.matrix(name, vocab_size, hidden_size).and_then(|head| head.read()).expect("the head");
    let bytes = match matrix.dtype() {
        DType::F32 => 4,
        DType::BF16 => 2,
        other => panic!("{model} is stored as {other:?}"),
    };
    // The upper half of an f32 is a bf16.
    let number = |stored: &[u8]| {
        let mut whole = [0; 4];
        whole[4 - bytes..].copy_from_slice(stored);
        f64::from(f32::from_le_bytes(whole))
    };
    (0..matrix.rows()).map(|row| matrix.row(row).chunks_exact(bytes).map(number).collect()).collect()
}

/// A last token's hidden state is what the head makes the reference's logits of.
#[test]
fn the_last_token_pooled_gives_the_reference_logits() {
    for model in ["llama3_rope", "llama_basic", "qwen3"] {
        let head = head(model);
        for world_size in [1, 2, 3] {
            let mut ranks = Ranks::start(model, world_size);
            for (index, case) in cases(model).iter().enumerate() {
                let hidden = pooled(&mut ranks, index as u64, &case.tokens, Pooling::Last, 50);
                for (row, expected) in head.iter().zip(&case.last_logits) {
                    let logit: f64 = row.iter().zip(&hidden).map(|(weight, &value)| weight * f64::from(value)).sum();
                    let place = format!("{model}, {world_size} ranks, case {index}");
                    assert!((logit - expected).abs() <= LOGIT_TOLERANCE, "{place}: {logit}, not {expected}");
                }
            }
        }
    }
}

/// Each token's hidden state by itself is the last one's of the prompt up to it.
#[test]
fn the_mean_is_that_of_all_prefixes_last_tokens_in_any_chunks() {
    for world_size in [1, 2, 3] {
        let mut ranks = Ranks::start("llama3_rope", world_size);
        let tokens = crate::prompt(37);
        let mut sum = vec![0f64; 64];
        for length in 1..=tokens.len() {
            let last = pooled(&mut ranks, length as u64, &tokens[..length], Pooling::Last, 256);
            sum.iter_mut().zip(last).for_each(|(sum, value)| *sum += f64::from(value));
        }
        let expected: Vec<f32> = sum.iter().map(|sum| (sum / tokens.len() as f64) as f32).collect();
        for (id, most) in [(101, 256), (102, 1), (103, 9), (104, 36)] {
            let found = pooled(&mut ranks, id, &tokens, Pooling::Mean, most);
            assert_eq!(found, expected, "{world_size} ranks, chunks of {most}");
        }
    }
}

/// More rows than go through the norm at once.
#[test]
fn a_long_prompt_is_pooled_whole() {
    let mut ranks = Ranks::start("qwen3", 2);
    let tokens = crate::prompt(200);
    let whole = pooled(&mut ranks, 1, &tokens, Pooling::Mean, 256);
    assert_eq!(pooled(&mut ranks, 2, &tokens, Pooling::Mean, 67), whole);
    assert_ne!(pooled(&mut ranks, 3, &tokens[..199], Pooling::Mean, 67), whole);
}

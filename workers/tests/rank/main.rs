//! Ranks as threads of this process follow scripts of steps on the golden models.

mod drafts;
#[path = "../../../tests/fixtures/mod.rs"]
mod fixtures;
mod gpu;
mod group;
mod guided;
mod prompts;
#[path = "../script/mod.rs"]
mod script;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use kernels::KvDType;
use kernels::cpu::{Cpu, CpuConfig};
use kernels::group::{Group, GroupMemory, Membership, Waiting};
use serde_json::Value;
use workers::link::report::{Outcome, SampledTokens, StepReport};
use workers::link::{sampling::Sampling, step::Step};
use workers::masks::Masks;
use workers::models::WeightOptions;
use workers::rank::Rank;
use workers::worker::{DeviceChoice, WorkerConfig};

use script::{BLOCK_SIZE, Script};

fn folder(model: &str) -> PathBuf {
    fixtures::golden("models").join(model)
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

/// A margin between the two best logits that f32 arithmetic in another order does not bridge.
const MARGIN_MIN: f64 = 5e-3;

fn config(model: &str, rank: usize, world_size: usize) -> WorkerConfig {
    WorkerConfig {
        kv_memory: None,
        rank,
        world_size,
        weights: WeightOptions::default(),
        epoch: 0,
        link: String::new(),
        model: folder(model),
        device: DeviceChoice::Cpu,
        max_model_len: 256,
        batch_tokens_max: 256,
        sequences_max: 8,
        draft_max: 4,
        block_size: BLOCK_SIZE,
        kv_cache_bytes: 0,
        kv_blocks: Some(64),
        activation_bytes: false,
        kv_dtype: KvDType::F32,
        threads: 1,
        cores: Vec::new(),
        spin: false,
    }
}

/// Runs the steps on all ranks; every rank's tokens are the same, rank 0's come back.
fn follow(model: &str, world_size: usize, steps: &[Step]) -> Vec<SampledTokens> {
    let memory = GroupMemory::heap(world_size);
    let rank = |rank: usize| {
        let membership =
            Membership { rank, world_size, waiting: Waiting::Sleep, join_timeout: Duration::from_secs(60) };
        let group = Group::join(memory.clone(), membership).expect("all join");
        let device = Cpu::new(CpuConfig { threads: 1, ..CpuConfig::default() }, group);
        let mut rank = Rank::load(device, &config(model, rank, world_size), &mut |_| ()).expect("the model loads");
        let mut masks = Masks::default();
        steps.iter().flat_map(|step| rank.compute(step, &mut masks).expect("a good step").tokens).collect::<Vec<_>>()
    };
    let mut sampled: Vec<Vec<SampledTokens>> = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world_size).map(|index| scope.spawn(move || rank(index))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("the rank did not panic")).collect()
    });
    let ids = |tokens: &[SampledTokens]| {
        tokens
            .iter()
            .map(|sampled| (sampled.id, sampled.outcomes.iter().map(Outcome::token).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
    };
    assert!(sampled.iter().all(|tokens| ids(tokens) == ids(&sampled[0])), "ranks learned different tokens");
    sampled.swap_remove(0)
}

/// Every sequence's sampled tokens.
fn tokens(model: &str, world_size: usize, script: Script) -> HashMap<u64, Vec<u32>> {
    let mut tokens: HashMap<u64, Vec<u32>> = HashMap::new();
    for sampled in follow(model, world_size, &script.steps()) {
        tokens.entry(sampled.id.0).or_default().extend(sampled.outcomes.iter().filter_map(Outcome::token));
    }
    tokens
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| 20 + (i * 7919) % 900).collect()
}

fn creative(seed: u64) -> Sampling {
    Sampling { temperature: 1.3, top_p: 0.98, seed, repetition_penalty: 1.2, min_tokens: 3, ..greedy() }
}

/// The golden prompts at once, their prefill in chunks, against the reference's greedy continuation.
fn check_golden(model: &str, world_size: usize) {
    let golden = std::fs::read(folder(model).join("golden.json")).expect("the golden file");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let cases = golden["cases"].as_array().expect("cases");
    let ids = |ids: &Value| serde_json::from_value::<Vec<u32>>(ids.clone()).expect("ids");
    let mut script = Script::default();
    for (id, case) in cases.iter().enumerate() {
        script.start(id as u64, &ids(&case["prompt_ids"]), greedy());
    }
    let wanted = |id: u64| ids(&cases[id as usize]["greedy"]["ids"]).len();
    script.run_all(40, &wanted);
    let ours = tokens(model, world_size, script);
    for (id, case) in cases.iter().enumerate() {
        let margins = case["greedy"]["margins"].as_array().expect("margins").iter().map(|m| m.as_f64().expect("f64"));
        let sure = margins.take_while(|&margin| margin > MARGIN_MIN).count();
        let expected = ids(&case["greedy"]["ids"]);
        let context = format!("{model}, case {}, {world_size} ranks", case["name"]);
        assert_eq!(ours[&(id as u64)].len(), expected.len(), "{context}");
        assert_eq!(ours[&(id as u64)][..sure], expected[..sure], "{context}");
    }
}

#[test]
fn greedy_continuations_equal_the_reference() {
    for model in ["llama_basic", "llama3_rope", "ernie45", "qwen3"] {
        for world_size in [1, 2, 4] {
            check_golden(model, world_size);
        }
    }
}

/// What a sequence is sampled as when it has the ranks for itself, its prompt in one piece.
fn alone(world_size: usize, prompt: &[u32], sampling: &Sampling, count: usize) -> Vec<u32> {
    let mut script = Script::default();
    script.start(1, prompt, sampling.clone());
    script.run_all(256, &|_| count);
    tokens("llama3_rope", world_size, script).remove(&1).expect("sampled")
}

#[test]
fn a_preempted_sequence_continues_with_the_same_tokens() {
    for world_size in [1, 2] {
        let (prompt, sampling) = (prompt(37), creative(11));
        let expected = alone(world_size, &prompt, &sampling, 24);
        let mut script = Script::default();
        script.start(1, &prompt, sampling.clone());
        script.run_all(16, &|_| 9);
        script.finish(1);
        let so_far = [&prompt[..], &expected[..9]].concat();
        script.start_again(2, &so_far, prompt.len(), sampling);
        script.run_all(13, &|_| 15);
        let sampled = tokens("llama3_rope", world_size, script);
        assert_eq!([&sampled[&1][..], &sampled[&2]].concat(), expected, "{world_size} ranks");
    }
}

#[test]
fn chunks_and_company_change_nothing() {
    for world_size in [1, 2] {
        let prompts = [prompt(50), prompt(3), prompt(77)];
        let mut script = Script::default();
        for (id, prompt) in prompts.iter().enumerate() {
            script.start(id as u64, prompt, creative(id as u64));
        }
        script.run_all(7, &|_| 12);
        let together = tokens("llama3_rope", world_size, script);
        for (id, prompt) in prompts.iter().enumerate() {
            let expected = alone(world_size, prompt, &creative(id as u64), 12);
            assert_eq!(together[&(id as u64)], expected, "sequence {id} of {world_size} ranks");
        }
    }
}

#[test]
fn a_cached_prefix_changes_nothing() {
    for world_size in [1, 2] {
        let first = prompt(45);
        let second = [&first[..2 * BLOCK_SIZE], &[5, 6, 7]].concat();
        let mut script = Script::default();
        script.start(1, &first, creative(1));
        script.run_all(64, &|_| 4);
        script.start_with_prefix_of(2, 1, 2, &second, creative(2));
        script.run_all(64, &|_| 10);
        let sampled = tokens("llama3_rope", world_size, script);
        assert_eq!(sampled[&2], alone(world_size, &second, &creative(2), 10), "{world_size} ranks");
        assert_eq!(sampled[&1], alone(world_size, &first, &creative(1), 10), "{world_size} ranks");
    }
}

#[test]
fn logprobs_come_where_they_were_asked_for() {
    let mut script = Script::default();
    script.start(1, &prompt(5), Sampling { logprobs: Some(2), ..greedy() });
    script.start(2, &prompt(5), greedy());
    script.run_all(64, &|_| 1);
    for sampled in follow("llama3_rope", 1, &script.steps()) {
        let [Outcome::Chosen { token: chosen, logprobs, .. }] = &sampled.outcomes[..] else {
            panic!("no mask, no ban")
        };
        let best = logprobs.as_ref().map(|logprobs| (logprobs.top.len(), logprobs.top[0], logprobs.sampled));
        match sampled.id.0 {
            1 => assert!(matches!(best, Some((2, (token, p), own)) if token == *chosen && p == own), "{best:?}"),
            _ => assert_eq!(best, None),
        }
    }
}

#[test]
fn nonsense_and_lost_steps_are_refused() {
    let device = Cpu::new(CpuConfig::default(), Group::solo());
    let mut rank = Rank::load(device, &config("llama3_rope", 0, 1), &mut |_| ()).expect("the model loads");
    let step = |number| Step { number, ..Step::default() };
    let mut masks = Masks::default();
    let report = rank.compute(&step(1), &mut masks).expect("an empty step is a good one");
    assert_eq!(report, StepReport { step: 1, ..StepReport::default() });
    let error = rank.compute(&step(3), &mut masks).expect_err("step 2 was lost");
    assert_eq!(error.to_string(), "step 3 came where step 2 was due");
}

#[test]
fn a_cache_without_a_block_is_refused() {
    let device = Cpu::new(CpuConfig::default(), Group::solo());
    let config = WorkerConfig { kv_blocks: None, kv_cache_bytes: 100, ..config("llama3_rope", 0, 1) };
    let error = Rank::load(device, &config, &mut |_| ()).err().expect("100 bytes hold nothing").to_string();
    assert!(error.contains("no room for a KV cache: 100 bytes"), "{error}");
}

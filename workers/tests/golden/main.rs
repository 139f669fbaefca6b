//! Whole models against Hugging Face transformers: files in, logits out, at several world sizes, alone, batched and in
//! chunks.
//!
//! Tolerances. Both sides compute in f32 over the same stored (or dequantized) weights, so they differ only by the order of
//! sums. The reference differs from itself in float64 by up to 3e-5 in a logit, and from us by 5e-5 at most (measured, over
//! all models and world sizes). 1e-3 leaves room for other machines' instructions. A log-probability subtracts two such
//! numbers, hence 2e-3; the next token can differ only where the reference's two best logits lie nearer than two errors,
//! and must agree where they lie 5e-3 apart. Where weights are quantized, activations may be rounded to 16 bits before
//! they are multiplied: ten times that then.

#[path = "../../../tests/fixtures/mod.rs"]
mod fixtures;
mod folder;
mod minicpm;
mod options;
mod paddle;
mod quantized;
mod ranks;
mod reference;
mod smollm2;
mod table;
mod written;

use std::path::Path;

use fixtures::golden;
use kernels::cpu::Rounding;
use ranks::{Rank, Ranks, Sequence, Wanted, on_ranks, step_all};
use reference::{Golden, Greedy, Judge, Tolerance};
use workers::{models::WeightOptions, weights::Checkpoint};
use written::Manner;

const TOLERANCE: Tolerance = Tolerance { logit: 1e-3, logprob: 2e-3, margin: 5e-3 };
/// Where activations are rounded to 16 bits.
const ROUNDED: Tolerance = Tolerance { logit: 1e-2, logprob: 1e-2, margin: 2e-2 };

/// Tokens of all cases of a model with their continuations, generously.
const TOKENS_MAX: usize = 1024;

/// A model's prompts one after the other, then their continuations. The continuation is fed the reference's tokens, so
/// that every step is compared, not only those before the first near tie.
fn alone(rank: &mut Rank, golden: &Golden, judge: &Judge) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for case in &golden.cases {
        let mut sequence = Sequence::new(&case.prompt_ids);
        let rows = rank.step(&mut [(&mut sequence, case.prompt_ids.len())], Wanted::EveryRow).remove(0);
        judge.check_prompt(case, &rows);
        all.extend(rows.iter().cloned());
        let last = rows.last().unwrap().clone();
        all.extend(continued(rank, &case.name, sequence, last, &case.greedy, judge));
    }
    all
}

fn continued(
    rank: &mut Rank,
    name: &str,
    mut sequence: Sequence,
    mut row: Vec<f32>,
    greedy: &Greedy,
    judge: &Judge,
) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for step in 0..greedy.ids.len() {
        judge.check_greedy(name, greedy, step, &row);
        sequence.push(greedy.ids[step]);
        row = rank.step(&mut [(&mut sequence, 1)], Wanted::LastRows).remove(0).remove(0);
        rows.push(row.clone());
    }
    rows
}

/// All prompts in one batch, then all continuations together as long as each lasts: the same bits as alone.
fn together(rank: &mut Rank, golden: &Golden) -> Vec<Vec<f32>> {
    let mut sequences: Vec<Sequence> = golden.cases.iter().map(|case| Sequence::new(&case.prompt_ids)).collect();
    let mut rows = step_all(rank, &mut sequences, Wanted::EveryRow);
    let steps = golden.cases.iter().map(|case| case.greedy.ids.len()).max().unwrap();
    for step in 0..steps {
        for (sequence, case) in sequences.iter_mut().zip(&golden.cases) {
            case.greedy.ids.get(step).into_iter().for_each(|&id| sequence.push(id));
        }
        for (rows, row) in rows.iter_mut().zip(step_all(rank, &mut sequences, Wanted::LastRows)) {
            rows.extend(row);
        }
    }
    rows.concat()
}

/// The prompts in chunks of `length`: the same bits as whole.
fn chunked(rank: &mut Rank, golden: &Golden, length: usize) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for case in &golden.cases {
        let mut sequence = Sequence::new(&case.prompt_ids);
        while sequence.remaining() > 0 {
            let count = sequence.remaining().min(length);
            rows.extend(rank.step(&mut [(&mut sequence, count)], Wanted::EveryRow).remove(0));
        }
    }
    rows
}

/// Whether a model answers as the reference does, in every manner; a line of the table comes of it.
fn check_model(path: &Path, (model, form): (&str, &str), ranks: impl Into<Ranks>) {
    let ranks = ranks.into();
    let judge = Judge::new(ranks.tolerance());
    let checkpoint = Checkpoint::open(path).unwrap();
    let golden = Golden::read(&format!("{model}/golden.json"));
    let prompts: Vec<usize> = golden.cases.iter().map(|case| case.prompt_ids.len()).collect();
    let alone = on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| alone(rank, &golden, &judge));
    let together = on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| together(rank, &golden));
    assert!(alone == together, "{model}, {form}, on {ranks:?}: a batch changes the bits");
    let chunked = on_ranks(&checkpoint, ranks, TOKENS_MAX, |rank| chunked(rank, &golden, 64));
    let mut at = 0;
    let mut whole = Vec::new();
    for (case, prompt) in golden.cases.iter().zip(&prompts) {
        whole.extend(alone[at..at + prompt].iter().cloned());
        at += prompt + case.greedy.ids.len();
    }
    assert!(whole == chunked, "{model}, {form}, on {ranks:?}: chunks change the bits");
    check_chats(&checkpoint, &golden, ranks, &judge);
    table::record(model, checkpoint.config().architecture, form, ranks.world_size, judge.worst());
}

fn check_chats(checkpoint: &Checkpoint, golden: &Golden, ranks: Ranks, judge: &Judge) {
    for chat in &golden.chat {
        on_ranks(checkpoint, ranks, TOKENS_MAX, |rank| {
            let mut sequence = Sequence::new(&chat.prompt_ids);
            let row = rank.step(&mut [(&mut sequence, chat.prompt_ids.len())], Wanted::LastRows).remove(0).remove(0);
            continued(rank, &chat.name, sequence, row, &chat.greedy, judge)
        });
    }
}

fn check_folder(name: &str, world_sizes: &[usize]) {
    let model = format!("models/{name}");
    for &world_size in world_sizes {
        check_model(&golden(&model), (&model, "folder"), world_size);
    }
}

/// The same with experts handed out whole.
fn check_experts(name: &str, world_sizes: &[usize]) {
    let model = format!("models/{name}");
    for &world_size in world_sizes {
        let weights = WeightOptions { whole_experts: true, ..WeightOptions::default() };
        check_model(&golden(&model), (&model, "folder, whole experts"), Ranks { weights, ..world_size.into() });
    }
}

fn check_gguf(name: &str, world_sizes: &[usize]) {
    let model = format!("gguf/{name}");
    for &world_size in world_sizes {
        let path = golden(&format!("{model}/model.gguf"));
        check_model(&path, (&model, "GGUF, exact"), world_size);
        check_model(&path, (&model, "GGUF"), Ranks { rounding: Rounding::Shorts, ..world_size.into() });
    }
}

// 3 ranks divide neither heads nor vocabulary; 8 ranks hold one query head each and share KV heads.

#[test]
fn llama_basic() {
    check_folder("llama_basic", &[1, 2, 3, 4, 8]);
}

#[test]
fn llama3_rope() {
    check_folder("llama3_rope", &[1, 2, 3, 4, 8]);
}

#[test]
fn ernie45() {
    check_folder("ernie45", &[1, 2, 3, 4, 8]);
}

#[test]
fn mistral_swa() {
    check_folder("mistral_swa", &[1, 2, 3, 4]);
}

#[test]
fn ernie45_moe() {
    check_folder("ernie45_moe", &[1, 2, 3, 4]);
    check_experts("ernie45_moe", &[2, 3]);
}

#[test]
fn qwen2() {
    check_folder("qwen2", &[1, 2, 3, 4]);
}

#[test]
fn qwen2_yarn() {
    check_folder("qwen2_yarn", &[1, 2, 4]);
}

#[test]
fn qwen3_moe() {
    check_folder("qwen3_moe", &[1, 2, 3, 4]);
    check_experts("qwen3_moe", &[2, 3]);
}

#[test]
fn deepseek_v3() {
    check_folder("deepseek_v3", &[1, 2, 3, 4]);
    check_experts("deepseek_v3", &[2, 3]);
}

#[test]
fn deepseek_v3_yarn() {
    check_folder("deepseek_v3_yarn", &[1, 2, 4]);
}

#[test]
fn glm4() {
    check_folder("glm4", &[1, 2, 3, 4]);
}

#[test]
fn glm4_moe() {
    check_folder("glm4_moe", &[1, 2, 3, 4, 8]);
    check_experts("glm4_moe", &[2, 3]);
}

#[test]
fn gemma3_text() {
    check_folder("gemma3_text", &[1, 2, 3, 4]);
}

#[test]
fn gpt_oss() {
    check_folder("gpt_oss", &[1, 2, 3, 4, 8]);
    check_experts("gpt_oss", &[2, 3]);
}

#[test]
fn qwen3() {
    check_folder("qwen3", &[1, 2, 3, 4]);
}

#[test]
fn gguf_q8_0() {
    check_gguf("llama_q8_0", &[1, 2, 4, 8]);
}

#[test]
fn gguf_mixed() {
    check_gguf("llama_mixed", &[1, 2, 4, 8]);
}

/// The families that the golden set has no GGUF file of, and the way Llama 3's scaling travels in one.
#[test]
fn gguf_of_every_family() {
    for (model, architecture) in [
        ("llama3_rope", "llama"),
        ("ernie45", "ernie4_5"),
        ("ernie45_moe", "ernie4_5-moe"),
        ("qwen2", "qwen2"),
        ("qwen2_yarn", "qwen2"),
        ("qwen3", "qwen3"),
        ("qwen3_moe", "qwen3moe"),
        ("deepseek_v3", "deepseek2"),
        ("deepseek_v3_yarn", "deepseek2"),
        ("gemma3_text", "gemma3"),
        ("gpt_oss", "gpt-oss"),
        ("glm4", "glm4"),
        ("glm4_moe", "glm4moe"),
    ] {
        check_written(model, Manner::of(architecture));
    }
}

/// A model in three files, latent attention as newer files have it, and a layer that is not of the model.
#[test]
fn gguf_in_parts_absorbed_and_with_a_layer_more() {
    check_written("qwen3", Manner { parts: 3, ..Manner::of("qwen3") });
    check_written("glm4_moe", Manner { predicts_ahead: true, ..Manner::of("glm4moe") });
    let absorbed = Manner { absorbed: true, ..Manner::of("deepseek2") };
    check_written("deepseek_v3", absorbed);
    check_written("deepseek_v3_yarn", Manner { parts: 2, ..absorbed });
}

fn check_written(model: &str, manner: Manner) {
    let (_folder, path) = written::as_gguf(model, manner);
    let form = match manner {
        Manner { absorbed: true, .. } => "GGUF, absorbed",
        Manner { predicts_ahead: true, .. } => "GGUF, with a layer more",
        Manner { parts: 1, .. } => "GGUF",
        _ => "GGUF, in parts",
    };
    for world_size in [1, 2] {
        check_model(&path, (&format!("models/{model}"), form), world_size);
    }
}

/// No golden model is one; a Llama can be written as one.
#[test]
fn minicpm() {
    let folder = minicpm::folder_of("llama_basic");
    for world_size in [1, 2, 3, 4, 8] {
        check_model(folder.path(), ("models/llama_basic", "folder, as MiniCPM"), world_size);
    }
}

/// ERNIE's own folders, as they are published for Paddle.
#[test]
fn paddle_folders() {
    for model in ["ernie45", "ernie45_moe"] {
        let folder = paddle::folder_of(model);
        for world_size in [1, 2, 4] {
            check_model(folder.path(), (&format!("models/{model}"), "Paddle folder"), world_size);
        }
    }
}

/// transformers 5 writes the same settings differently.
#[test]
fn both_forms_of_config_json_say_the_same() {
    for model in [
        "llama_basic",
        "llama3_rope",
        "mistral_swa",
        "ernie45",
        "ernie45_moe",
        "qwen2",
        "qwen2_yarn",
        "qwen3",
        "qwen3_moe",
        "deepseek_v3",
        "deepseek_v3_yarn",
        "gemma3_text",
        "gpt_oss",
        "glm4",
        "glm4_moe",
    ] {
        let folder = golden(&format!("models/{model}"));
        let (old, new) = (Checkpoint::open(&folder).unwrap(), folder.join("config_v5.json"));
        let new = Checkpoint::open_folder_with(&folder, &new).unwrap();
        assert_eq!(old.config(), new.config(), "{model}");
    }
}

//! Broken files: each ends in one line that names the file, quickly and without taking much memory.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::Checkpoint;
use crate::{fixtures::golden, models};

/// The line that opening and checking `path` end in; empty if all is well.
fn complaint(path: &Path) -> String {
    let opened =
        Checkpoint::open(path).and_then(|checkpoint| models::check(&checkpoint, 2, models::WeightOptions::default()));
    let line = opened.err().map(|fault| fault.to_string()).unwrap_or_default();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

/// A copy of a golden folder in which one file is changed.
fn folder_with(model: &str, file: &str, change: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(model)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "golden.json" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let mut bytes = std::fs::read(golden(model).join(file)).unwrap();
    change(&mut bytes);
    std::fs::write(copy.path().join(file), bytes).unwrap();
    copy
}

/// A GGUF file made of `bytes`.
fn gguf_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn gguf_bytes() -> Vec<u8> {
    std::fs::read(golden("gguf/llama_q8_0/model.gguf")).unwrap()
}

#[test]
fn absurd_settings_are_named() {
    let check = |from: &str, to: &str, expected: &str| {
        let folder = folder_with("models/llama3_rope", "config.json", |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(text.contains(from), "{from}");
            *bytes = text.replacen(from, to, 1).into_bytes();
        });
        let line = complaint(folder.path());
        assert!(line.contains("config.json: ") && line.contains(expected), "{to}: {line}");
    };
    check("\"hidden_size\": 64", "\"hidden_size\": 0", "hidden_size must be between 1 and 131072, got 0");
    check("\"hidden_size\": 64", "\"hidden_size\": -4", "hidden_size must be a whole number >= 0, got -4");
    check("\"hidden_size\": 64", "\"hidden_size\": 1e99", "hidden_size must be a whole number >= 0, got 1e+99");
    check("\"hidden_size\": 64", "\"hidden_size\": 18446744073709551615", "hidden_size must be between 1 and");
    check("\"hidden_size\": 64,", "", "hidden_size is missing");
    check("\"num_attention_heads\": 8", "\"num_attention_heads\": 0", "num_attention_heads must be between 1");
    check("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "8 attention heads cannot share 3");
    check("\"head_dim\": 16", "\"head_dim\": 15", "head_dim must be even");
    check("\"vocab_size\": 1024", "\"vocab_size\": \"many\"", "vocab_size must be a whole number >= 0, got \"many\"");
    check(
        "LlamaForCausalLM",
        "MambaForCausalLM",
        "MambaForCausalLM is not known; LlamaForCausalLM, MistralForCausalLM, Ernie4_5ForCausalLM",
    );
    check(
        "\"llama3\"",
        "\"spiral\"",
        "rope_scaling.rope_type must be one of default, linear, llama3, yarn, longrope, got \"spiral\"",
    );
    check("\"factor\": 8.0,", "", "rope_scaling.factor is missing");
    check("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1.0", "rms_norm_eps must be between 0 and 1");
    check("\"silu\"", "\"relu\"", "hidden_act must be silu or gelu_pytorch_tanh, got \"relu\"");
    let many = format!("\"eos_token_id\": {:?},\n  \"head_dim\"", [7; 65]);
    check("\"head_dim\"", &many, "eos_token_id must be a token id or a list of at most 64, got [7,7,7,");
    check("{", "[", "is not valid JSON");
}

#[test]
fn missing_and_broken_files_are_named() {
    let check = |path: &Path, expected: &str| {
        let line = complaint(path);
        assert!(line.contains(expected), "{line}");
    };
    check(Path::new("/nowhere/at/all"), "/nowhere/at/all: No such file");
    let folder = folder_with("models/qwen3", "model.safetensors", |_| {});
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    check(folder.path(), "model.safetensors: is missing, and so is model.safetensors.index.json");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    check(folder.path(), "config.json: No such file");
    let folder = folder_with("models/qwen3", "model.safetensors", |bytes| bytes.truncate(300_000));
    check(folder.path(), "model.safetensors: is truncated");
    let folder = folder_with("models/qwen3", "model.safetensors", |bytes| bytes[..8].fill(0xff));
    check(folder.path(), "model.safetensors: is not a safetensors file");
    let folder = folder_with("models/qwen3", "model.safetensors", Vec::clear);
    check(folder.path(), "model.safetensors: is empty");
    let folder = folder_with("models/llama_basic", "model-00002-of-00003.safetensors", |_| {});
    std::fs::remove_file(folder.path().join("model-00002-of-00003.safetensors")).unwrap();
    check(folder.path(), "model-00002-of-00003.safetensors: No such file");
    let index = "model.safetensors.index.json";
    let elsewhere = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text.replacen("model-00003-of", "../model-00003-of", 1).into_bytes();
    };
    check(folder_with("models/llama_basic", index, elsewhere).path(), "must be a file name, got \"../model");
}

#[test]
fn broken_gguf_files_are_named() {
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut bytes = gguf_bytes();
        change(&mut bytes);
        let (_folder, path) = gguf_of(&bytes);
        let line = complaint(&path);
        assert!(line.contains("broken.gguf: ") && line.contains(expected), "{expected}: {line}");
    };
    check(&|bytes| bytes[0] = b'X', "is not a GGUF file");
    check(&|bytes| bytes[4] = 9, "GGUF version 9");
    check(&|bytes| bytes[4..8].rotate_left(1), "big-endian");
    check(&|bytes| bytes[8..16].fill(0xff), "tensors, at most");
    check(&|bytes| bytes[16..24].fill(0xff), "metadata keys, at most");
    check(&|bytes| bytes.truncate(bytes.len() - 5000), "beyond the end of the file");
    check(&|bytes| bytes.truncate(100), "is truncated or corrupt");
    let renamed = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    };
    // Settings are told by the file's own names for them.
    let key = "llama.block_count";
    check(&renamed(key, "llama.block_counX"), "llama.block_count is missing");
    let known = "the architecture xlama is not known; llama, ernie4_5, ernie4_5-moe, qwen2";
    check(&renamed("llama", "xlama"), known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever byte is changed or wherever a file ends: an answer, not a panic.
    #[test]
    fn any_damage_to_a_gguf_file_is_answered(flips in flips(), end in proptest::option::of(0.0..1.0f64)) {
        let bytes = damaged(gguf_bytes(), &flips, end);
        let (_folder, path) = gguf_of(&bytes);
        complaint(&path);
    }

    #[test]
    fn any_damage_to_a_safetensors_file_is_answered(flips in flips(), end in proptest::option::of(0.0..1.0f64)) {
        let folder = folder_with("models/ernie45", "model.safetensors", |bytes| *bytes = damaged(bytes.clone(), &flips, end));
        complaint(folder.path());
    }

    /// With its settings, which say how the rest is to be understood.
    #[test]
    fn any_damage_to_quantized_weights_is_answered(
        model in prop::sample::select(vec!["gptq", "awq", "packed_int4", "fp8_experts", "mxfp4"]),
        file in prop::sample::select(vec!["model.safetensors", "config.json"]),
        flips in flips(),
    ) {
        let change = |bytes: &mut Vec<u8>| *bytes = damaged(bytes.clone(), &flips, None);
        complaint(folder_with(&format!("quantized/{model}"), file, change).path());
    }

    #[test]
    fn any_damage_to_a_config_is_answered(flips in flips(), end in proptest::option::of(0.0..1.0f64)) {
        let folder = folder_with("models/ernie45", "config.json", |bytes| *bytes = damaged(bytes.clone(), &flips, end));
        complaint(folder.path());
    }
}

/// Places (as a share of the file's beginning) and the bytes to put there.
fn flips() -> impl Strategy<Value = Vec<(f64, u8)>> {
    proptest::collection::vec((0.0..1.0f64, any::<u8>()), 1..4)
}

fn damaged(mut bytes: Vec<u8>, flips: &[(f64, u8)], end: Option<f64>) -> Vec<u8> {
    let head = bytes.len().min(64 << 10) as f64;
    for (place, byte) in flips {
        bytes[(place * head) as usize] = *byte;
    }
    if let Some(end) = end {
        bytes.truncate((end * bytes.len() as f64) as usize);
    }
    bytes
}

/// The fault of a tensor names it.
#[test]
fn tensors_are_named() {
    let checkpoint = Checkpoint::open(&golden("models/qwen3")).unwrap();
    let line = |name: &str, length| checkpoint.vector(name, length, 0..1).expect_err("a fault").to_string();
    assert!(line("model.norm.bias", 64).ends_with("qwen3: tensor model.norm.bias: is missing"));
    let wrong = line("model.norm.weight", 65);
    let expected = "model.safetensors: tensor model.norm.weight: has shape 1 × 64, the model's settings ask for 1 × 65";
    assert!(wrong.ends_with(expected), "{wrong}");
}

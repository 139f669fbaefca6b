//! The golden folders written as GGUF files, the way llama.cpp's converter names, permutes and describes them: families of
//! which the golden set has no GGUF file.

use std::path::PathBuf;

use kernels::{DType, Matrix};
use workers::{
    models::{ModelConfig, Rope, Scaling},
    weights::Checkpoint,
};

use crate::fixtures::golden;

const ALIGNMENT: usize = 32;

/// Writes `models/{model}` as a GGUF file of architecture `name`.
pub fn as_gguf(model: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let source = Checkpoint::open(&golden(&format!("models/{model}"))).unwrap();
    let tensors = tensors(&source, name == "llama");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{model}.gguf"));
    std::fs::write(&path, file(&settings(source.config(), name), &tensors)).unwrap();
    (folder, path)
}

/// A tensor as it goes into the file.
struct Tensor {
    name: String,
    /// Fastest dimension first.
    dimensions: Vec<usize>,
    kind: u32,
    bytes: Vec<u8>,
}

/// A metadata value.
enum Value {
    Text(String),
    Count(usize),
    Number(f32),
}

fn settings(config: &ModelConfig, name: &str) -> Vec<(String, Value)> {
    let own = |key: &str, value| (format!("{name}.{key}"), value);
    vec![
        ("general.architecture".into(), Value::Text(name.into())),
        own("block_count", Value::Count(config.layers)),
        own("context_length", Value::Count(config.max_positions)),
        own("embedding_length", Value::Count(config.hidden_size)),
        own("feed_forward_length", Value::Count(config.intermediate_size)),
        own("attention.head_count", Value::Count(config.heads)),
        own("attention.head_count_kv", Value::Count(config.kv_heads)),
        own("attention.key_length", Value::Count(config.head_dim)),
        own("attention.value_length", Value::Count(config.head_dim)),
        own("attention.layer_norm_rms_epsilon", Value::Number(config.rms_norm_eps)),
        own("rope.freq_base", Value::Number(config.rope.theta as f32)),
    ]
}

fn tensors(source: &Checkpoint, permuted: bool) -> Vec<Tensor> {
    let config = source.config();
    let mut tensors = Vec::new();
    let mut add = |theirs: &str, own: &str, heads: Option<usize>| {
        if let Ok(matrix) = source.tensor(&format!("{theirs}.weight")) {
            let heads = heads.filter(|_| permuted);
            tensors.push(tensor(format!("{own}.weight"), &matrix, heads));
        }
    };
    for layer in 0..config.layers {
        let names = [
            ("input_layernorm", "attn_norm", None),
            ("self_attn.q_proj", "attn_q", Some(config.heads)),
            ("self_attn.k_proj", "attn_k", Some(config.kv_heads)),
            ("self_attn.v_proj", "attn_v", None),
            ("self_attn.o_proj", "attn_output", None),
            ("self_attn.q_norm", "attn_q_norm", None),
            ("self_attn.k_norm", "attn_k_norm", None),
            ("post_attention_layernorm", "ffn_norm", None),
            ("mlp.gate_proj", "ffn_gate", None),
            ("mlp.up_proj", "ffn_up", None),
            ("mlp.down_proj", "ffn_down", None),
        ];
        for (theirs, own, heads) in names {
            add(&format!("model.layers.{layer}.{theirs}"), &format!("blk.{layer}.{own}"), heads);
        }
    }
    add("model.embed_tokens", "token_embd", None);
    add("model.norm", "output_norm", None);
    add("lm_head", "output", None);
    tensors.extend(divisors(config));
    tensors
}

/// A matrix with the rows of each head reordered, the two that turn together made neighbours; vectors as they are.
fn tensor(name: String, matrix: &Matrix, heads: Option<usize>) -> Tensor {
    let row = |row: usize| match heads {
        None => row,
        Some(heads) => {
            let dim = matrix.rows() / heads;
            let (head, within) = (row / dim, row % dim);
            head * dim + within % 2 * (dim / 2) + within / 2
        }
    };
    let bytes = (0..matrix.rows()).flat_map(|index| matrix.row(row(index)).to_vec()).collect();
    let kind = match matrix.dtype() {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 30,
        other => panic!("the golden folders have no {other:?}"),
    };
    let dimensions = if matrix.rows() == 1 { vec![matrix.columns()] } else { vec![matrix.columns(), matrix.rows()] };
    Tensor { name, dimensions, kind, bytes }
}

/// Llama 3's scaling travels as a divisor per frequency.
fn divisors(config: &ModelConfig) -> Option<Tensor> {
    if config.rope.scaling == Scaling::None {
        return None;
    }
    let plain = Rope { scaling: Scaling::None, ..config.rope.clone() }.frequencies(config.head_dim);
    let scaled = config.rope.frequencies(config.head_dim);
    let bytes = plain.iter().zip(scaled).flat_map(|(plain, scaled)| (plain / scaled).to_le_bytes()).collect();
    Some(Tensor { name: "rope_freqs.weight".into(), dimensions: vec![config.head_dim / 2], kind: 0, bytes })
}

fn file(settings: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        text(&mut bytes, key);
        match value {
            Value::Text(value) => {
                bytes.extend(8u32.to_le_bytes());
                text(&mut bytes, value);
            }
            Value::Count(value) => bytes.extend([4, *value as u32].map(u32::to_le_bytes).concat()),
            Value::Number(value) => bytes.extend([6, value.to_bits()].map(u32::to_le_bytes).concat()),
        }
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
        tensor.dimensions.iter().for_each(|&length| bytes.extend((length as u64).to_le_bytes()));
        bytes.extend(tensor.kind.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.bytes.len()).next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(&tensor.bytes);
    }
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.bytes());
}

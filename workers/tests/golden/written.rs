//! The golden folders written as GGUF files, the way llama.cpp's converter names, permutes, stacks and describes them:
//! families of which the golden set has no GGUF file. All tensors are written as F32, which holds every value exactly.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value as Json;
use workers::{
    models::{Rope, Scaling},
    weights::Checkpoint,
};

use crate::folder::Folder;

const ALIGNMENT: usize = 32;

/// How a file is to be written.
#[derive(Clone, Copy)]
pub struct Manner {
    /// GGUF's name of the architecture.
    pub architecture: &'static str,
    /// Latent attention's up projections apart, as files since 2025 have them.
    pub absorbed: bool,
    /// Files to write.
    pub parts: usize,
    /// Whether a layer follows that predicts tokens further ahead.
    pub predicts_ahead: bool,
}

impl Manner {
    pub fn of(architecture: &'static str) -> Self {
        Self { architecture, absorbed: false, parts: 1, predicts_ahead: false }
    }
}

/// Writes `models/{model}` as GGUF; the path is the first file's.
pub fn as_gguf(model: &str, manner: Manner) -> (tempfile::TempDir, PathBuf) {
    let source = Source::read(model, manner);
    let tensors = source.tensors();
    let folder = tempfile::tempdir().unwrap();
    let each = tensors.len().div_ceil(manner.parts);
    let path = |part: usize| match manner.parts {
        1 => folder.path().join(format!("{model}.gguf")),
        parts => folder.path().join(format!("{model}-{:05}-of-{parts:05}.gguf", part + 1)),
    };
    for (part, tensors) in tensors.chunks(each).enumerate() {
        let mut settings = if part == 0 { source.settings() } else { Vec::new() };
        if manner.parts > 1 {
            settings.push(("split.no".into(), Value::Count(part)));
            settings.push(("split.count".into(), Value::Count(manner.parts)));
        }
        std::fs::write(path(part), file(&settings, tensors)).unwrap();
    }
    let first = path(0);
    (folder, first)
}

/// A tensor's values and its lengths, slowest first.
#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// A metadata value.
enum Value {
    Text(&'static str),
    Count(usize),
    Number(f64),
    Flags(Vec<bool>),
}

/// A golden folder.
struct Source {
    config: Json,
    tensors: BTreeMap<String, Tensor>,
    manner: Manner,
    rope: Rope,
}

/// Names within a layer.
const LAYER: [(&str, &str); 31] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.sinks", "attn_sinks.weight"),
    ("self_attn.q_a_proj.weight", "attn_q_a.weight"),
    ("self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"),
    ("self_attn.q_b_proj.weight", "attn_q_b.weight"),
    ("self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"),
    ("self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"),
    ("post_self_attn_layernorm.weight", "post_attention_norm.weight"),
    ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
    ("post_mlp_layernorm.weight", "post_ffw_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.gate_up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
    ("mlp.router.weight", "ffn_gate_inp.weight"),
    ("mlp.router.bias", "ffn_gate_inp.bias"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"),
    ("self_attn.kv_b_proj.weight", "attn_kv_b.weight"),
];

impl Source {
    fn read(model: &str, manner: Manner) -> Self {
        let Folder { path, config, tensors } = Folder::of(model);
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.clone(), Tensor { name, values: tensor.values(), shape: tensor.shape }));
        let rope = Checkpoint::open(&path).unwrap().config().rope.clone();
        Self { config, tensors: tensors.collect(), manner, rope }
    }

    fn count(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key} is in the golden config")) as usize
    }

    fn tensors(&self) -> Vec<Tensor> {
        let mut written = Vec::new();
        for (theirs, own) in
            [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")]
        {
            let found = self.tensors.get(&format!("{theirs}.weight"));
            written.extend(found.map(|tensor| self.shifted(tensor).named(format!("{own}.weight"))));
        }
        for layer in 0..self.count("num_hidden_layers") {
            self.layer(layer, &mut written);
        }
        written.extend(self.divisors());
        if self.manner.predicts_ahead {
            let norm = written[1].clone();
            let layer = self.count("num_hidden_layers");
            let names = ["attn_norm", "nextn.eh_proj"].map(|field| format!("blk.{layer}.{field}.weight"));
            written.extend(names.map(|name| norm.clone().named(name)));
        }
        written
    }

    fn layer(&self, layer: usize, written: &mut Vec<Tensor>) {
        let their = |field: &str| self.tensors.get(&format!("model.layers.{layer}.{field}"));
        let own = |field: &str| format!("blk.{layer}.{field}");
        for (field, name) in LAYER {
            if let Some(tensor) = their(field).filter(|_| !(self.manner.absorbed && field.contains("kv_b_proj"))) {
                written.push(self.permuted(field, &self.shifted(tensor)).named(own(name)));
            }
        }
        let mlp_norm = match self.manner.architecture {
            "gemma3" | "glm4moe" | "gpt-oss" => "post_attention_norm",
            _ => "ffn_norm",
        };
        let norm = their("post_attention_layernorm.weight").unwrap();
        written.push(self.shifted(norm).named(own(&format!("{mlp_norm}.weight"))));
        for (theirs, name) in [("gate", "gate"), ("up", "up"), ("down", "down")] {
            let shared = their(&format!("mlp.shared_experts.{theirs}_proj.weight"));
            written.extend(shared.map(|tensor| tensor.clone().named(own(&format!("ffn_{name}_shexp.weight")))));
            let experts: Vec<&Tensor> =
                (0..).map_while(|expert| their(&format!("mlp.experts.{expert}.{theirs}_proj.weight"))).collect();
            if !experts.is_empty() {
                written.push(stacked(&experts).named(own(&format!("ffn_{name}_exps.weight"))));
            }
        }
        self.experts_of_gpt_oss(layer, written);
        if let Some(both) = their("self_attn.kv_b_proj.weight").filter(|_| self.manner.absorbed) {
            let (keys, values) = self.absorbed(both);
            written.extend([keys.named(own("attn_k_b.weight")), values.named(own("attn_v_b.weight"))]);
        }
    }

    /// Gemma's converter adds the one that norms are stored without.
    fn shifted(&self, tensor: &Tensor) -> Tensor {
        let mut tensor = tensor.clone();
        if self.manner.architecture == "gemma3" && tensor.name.ends_with("norm.weight") {
            tensor.values.iter_mut().for_each(|value| *value += 1.0);
        }
        tensor
    }

    /// Llama's rows of each query and key head, the two that turn together made neighbours.
    fn permuted(&self, field: &str, tensor: &Tensor) -> Tensor {
        let heads = match field {
            "self_attn.q_proj.weight" => self.count("num_attention_heads"),
            "self_attn.k_proj.weight" => self.count("num_key_value_heads"),
            _ => return tensor.clone(),
        };
        if self.manner.architecture != "llama" {
            return tensor.clone();
        }
        let (columns, dim) = (tensor.shape[1], tensor.shape[0] / heads);
        let row = |row: usize| row / dim * dim + row % dim % 2 * (dim / 2) + row % dim / 2;
        let rows = (0..tensor.shape[0]).flat_map(|index| tensor.values[row(index) * columns..][..columns].to_vec());
        Tensor { values: rows.collect(), ..tensor.clone() }
    }

    /// `[experts, inputs, 2 × outputs]` in turns becomes gates and ups of `[experts, outputs, inputs]`.
    fn experts_of_gpt_oss(&self, layer: usize, written: &mut Vec<Tensor>) {
        let their = |field: &str| self.tensors.get(&format!("model.layers.{layer}.mlp.experts.{field}"));
        let Some(gate_up) = their("gate_up_proj") else { return };
        for (first, step, tensor, bias, name) in [
            (0, 2, gate_up, their("gate_up_proj_bias").unwrap(), "gate"),
            (1, 2, gate_up, their("gate_up_proj_bias").unwrap(), "up"),
            (0, 1, their("down_proj").unwrap(), their("down_proj_bias").unwrap(), "down"),
        ] {
            let [experts, inputs, outputs] = tensor.shape[..] else { panic!("three dimensions") };
            let outputs_of = |expert: usize| (first..outputs).step_by(step).map(move |output| (expert, output));
            let pairs: Vec<_> = (0..experts).flat_map(outputs_of).collect();
            let value = |expert: usize, input: usize, output: usize| {
                tensor.values[(expert * inputs + input) * outputs + output]
            };
            let values =
                pairs.iter().flat_map(|&(expert, output)| (0..inputs).map(move |input| value(expert, input, output)));
            let shape = vec![experts, outputs / step, inputs];
            let own = |kind: &str| format!("blk.{layer}.ffn_{name}_exps.{kind}");
            written.push(Tensor { name: own("weight"), shape, values: values.collect() });
            let values = pairs.iter().map(|&(expert, output)| bias.values[expert * outputs + output]).collect();
            written.push(Tensor { name: own("bias"), shape: vec![experts, outputs / step], values });
        }
    }

    /// Per head the key part transposed, and the value part.
    fn absorbed(&self, both: &Tensor) -> (Tensor, Tensor) {
        let (heads, latent) = (self.count("num_attention_heads"), self.count("kv_lora_rank"));
        let (nope, value) = (self.count("qk_nope_head_dim"), self.count("v_head_dim"));
        let at = |head: usize, row: usize, column: usize| both.values[(head * (nope + value) + row) * latent + column];
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..heads {
            keys.extend((0..latent).flat_map(|column| (0..nope).map(move |row| at(head, row, column))));
            values.extend((0..value).flat_map(|row| (0..latent).map(move |column| at(head, nope + row, column))));
        }
        let tensor = |shape: [usize; 3], values| Tensor { name: String::new(), shape: shape.to_vec(), values };
        (tensor([heads, latent, nope], keys), tensor([heads, value, latent], values))
    }

    /// Llama 3's scaling travels as a divisor per frequency.
    fn divisors(&self) -> Option<Tensor> {
        let Scaling::Llama3 { .. } = self.rope.scaling else { return None };
        let plain = Rope { scaling: Scaling::None, ..self.rope.clone() }.frequencies();
        let values: Vec<f32> =
            plain.iter().zip(self.rope.frequencies()).map(|(plain, scaled)| plain / scaled).collect();
        Some(Tensor { name: "rope_freqs.weight".into(), shape: vec![values.len()], values })
    }

    fn settings(&self) -> Vec<(String, Value)> {
        let architecture = self.manner.architecture;
        let mut settings = vec![("general.architecture".into(), Value::Text(architecture))];
        let counts: [(&str, &[&str]); 18] = [
            ("block_count", &["num_hidden_layers"]),
            ("context_length", &["max_position_embeddings"]),
            ("embedding_length", &["hidden_size"]),
            ("feed_forward_length", &["intermediate_size"]),
            ("attention.head_count", &["num_attention_heads"]),
            ("attention.head_count_kv", &["num_key_value_heads"]),
            ("attention.key_length", &["qk_head_dim", "head_dim"]),
            ("attention.value_length", &["v_head_dim", "head_dim"]),
            ("attention.sliding_window", &["sliding_window"]),
            ("attention.q_lora_rank", &["q_lora_rank"]),
            ("attention.kv_lora_rank", &["kv_lora_rank"]),
            ("expert_count", &["num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"]),
            ("expert_used_count", &["num_experts_per_tok", "moe_k"]),
            ("expert_feed_forward_length", &["moe_intermediate_size"]),
            ("expert_shared_count", &["n_shared_experts", "moe_num_shared_experts"]),
            ("expert_group_count", &["n_group"]),
            ("expert_group_used_count", &["topk_group"]),
            ("leading_dense_block_count", &["first_k_dense_replace", "moe_layer_start_index"]),
        ];
        let own = |key: &str, value| (format!("{architecture}.{key}"), value);
        for (key, names) in counts {
            let count = names.iter().find_map(|name| self.config[name].as_u64());
            let more = usize::from(key == "block_count" && self.manner.predicts_ahead);
            settings.extend(count.map(|count| own(key, Value::Count(count as usize + more))));
        }
        if self.manner.predicts_ahead {
            settings.push(own("nextn_predict_layers", Value::Count(1)));
        }
        for (key, name) in [
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("rope.freq_base", "rope_theta"),
            ("expert_weights_scale", "routed_scaling_factor"),
        ] {
            settings.extend(self.config[name].as_f64().map(|number| own(key, Value::Number(number))));
        }
        if let Some(scalar) = self.config["query_pre_attn_scalar"].as_f64() {
            settings.push(own("attention.scale", Value::Number(scalar.sqrt().recip())));
        }
        if let Some(types) = self.config["layer_types"].as_array() {
            let slides = types.iter().map(|kind| kind == "sliding_attention").collect();
            settings.push(own("attention.sliding_window_pattern", Value::Flags(slides)));
        }
        if self.config["norm_topk_prob"].is_boolean() {
            settings.push(own("expert_weights_norm", Value::Flags(vec![self.config["norm_topk_prob"] == true])));
        }
        if self.tensors.contains_key("model.layers.1.mlp.gate.e_score_correction_bias") {
            settings.push(own("expert_gating_func", Value::Count(2)));
        }
        settings.extend(self.rope_settings().into_iter().map(|(key, value)| own(key, value)));
        settings
    }

    fn rope_settings(&self) -> Vec<(&'static str, Value)> {
        let mut settings = vec![("rope.dimension_count", Value::Count(self.rope.dim))];
        let scaling = &self.config["rope_scaling"];
        if scaling["rope_type"] == "yarn" {
            let number = |key: &str, default: f64| Value::Number(scaling[key].as_f64().unwrap_or(default));
            settings.push(("rope.scaling.type", Value::Text("yarn")));
            settings.push(("rope.scaling.factor", number("factor", 0.0)));
            settings.push(("rope.scaling.yarn_beta_fast", number("beta_fast", 32.0)));
            settings.push(("rope.scaling.yarn_beta_slow", number("beta_slow", 1.0)));
            let original = scaling["original_max_position_embeddings"].as_u64().unwrap() as usize;
            settings.push(("rope.scaling.original_context_length", Value::Count(original)));
            if let Some(mscale) = scaling["mscale_all_dim"].as_f64() {
                settings.push(("rope.scaling.yarn_log_multiplier", Value::Number(0.1 * mscale)));
            }
        }
        settings
    }
}

impl Tensor {
    fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
}

/// Matrices as one tensor, the first slowest.
fn stacked(matrices: &[&Tensor]) -> Tensor {
    let values = matrices.iter().flat_map(|matrix| matrix.values.clone()).collect();
    let shape = [matrices.len()].into_iter().chain(matrices[0].shape.iter().copied()).collect();
    Tensor { name: String::new(), shape, values }
}

fn file(settings: &[(String, Value)], tensors: &[Tensor]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((settings.len() as u64).to_le_bytes());
    for (key, value) in settings {
        text(&mut bytes, key);
        write_value(&mut bytes, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        // The fastest dimension comes first.
        tensor.shape.iter().rev().for_each(|&length| bytes.extend((length as u64).to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.values.len() * 4).next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        tensor.values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }
    bytes
}

/// A single flag is a flag; several are an array of them.
fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(value) => {
            bytes.extend(8u32.to_le_bytes());
            text(bytes, value);
        }
        Value::Count(value) => bytes.extend([4, *value as u32].map(u32::to_le_bytes).concat()),
        Value::Number(value) => bytes.extend([6, (*value as f32).to_bits()].map(u32::to_le_bytes).concat()),
        Value::Flags(flags) => {
            match &flags[..] {
                [_] => bytes.extend(7u32.to_le_bytes()),
                flags => {
                    bytes.extend([9u32, 7].map(u32::to_le_bytes).concat());
                    bytes.extend((flags.len() as u64).to_le_bytes());
                }
            }
            bytes.extend(flags.iter().map(|&flag| u8::from(flag)));
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.bytes());
}

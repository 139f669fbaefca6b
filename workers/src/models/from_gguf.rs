//! A model's shape from a GGUF file: its metadata as the config.json that they were made from, and what only the tensors
//! tell.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{BranchNorms, FAMILIES, Family, ModelConfig, Moe, Scaling};
use crate::weights::{Fields, LoadError, Metadata, MetadataValue, gguf::Gguf};

/// Divisors of the rotary frequencies, one per pair, where the model was stretched the way of Llama 3.
const DIVISORS: &str = "rope_freqs.weight";

/// GGUF's keys (behind the architecture's name), and what config.json calls them; each family reads the name that it
/// knows. Keys: llama.cpp's `gguf-py/gguf/constants.py`.
const KEYS: [(&str, &[&str]); 27] = [
    ("embedding_length", &["hidden_size"]),
    ("block_count", &["num_hidden_layers"]),
    ("context_length", &["max_position_embeddings"]),
    ("feed_forward_length", &["intermediate_size"]),
    ("attention.head_count", &["num_attention_heads"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    ("attention.sliding_window", &["sliding_window"]),
    ("attention.q_lora_rank", &["q_lora_rank"]),
    ("attention.kv_lora_rank", &["kv_lora_rank"]),
    ("rope.freq_base", &["rope_theta"]),
    ("rope.freq_base_swa", &["rope_local_base_freq"]),
    ("rope.scaling.type", &["rope_scaling.type"]),
    ("rope.scaling.factor", &["rope_scaling.factor"]),
    ("rope.scaling.original_context_length", &["rope_scaling.original_max_position_embeddings"]),
    ("rope.scaling.yarn_beta_fast", &["rope_scaling.beta_fast"]),
    ("rope.scaling.yarn_beta_slow", &["rope_scaling.beta_slow"]),
    ("expert_count", &["num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"]),
    ("expert_used_count", &["num_experts_per_tok", "moe_k"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_shared_count", &["n_shared_experts", "moe_num_shared_experts"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
    ("expert_weights_scale", &["routed_scaling_factor"]),
    ("expert_weights_norm", &["norm_topk_prob"]),
    ("leading_dense_block_count", &["first_k_dense_replace", "moe_layer_start_index"]),
];

impl ModelConfig {
    /// Reads and checks a GGUF file's metadata; what they leave unsaid is seen from the tensors.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self, LoadError> {
        let (family, name) = family(gguf)?;
        let fields = Translation::of(gguf, name)?.fields(gguf)?;
        let mut config = Self::read(&fields, family)?;
        config.rope.pairing = family.gguf_pairing;
        config.see_tensors(gguf)?;
        let scale = format!("{name}.attention.scale");
        if let Some(scale) = gguf.metadata().float(&scale) {
            config.attention_scale = scale as f32;
        }
        if config.branch_norms == BranchNorms::Gemma {
            // The converter has added the offset.
            config.norm_offset = 0.0;
        }
        config.checked(gguf.path())
    }

    fn see_tensors(&mut self, gguf: &Gguf) -> Result<(), LoadError> {
        self.tied = !gguf.has("output.weight");
        self.qkv_bias = gguf.has("blk.0.attn_q.bias") || gguf.has("blk.0.attn_qkv.bias");
        self.o_bias = gguf.has("blk.0.attn_output.bias");
        self.mlp_bias = gguf.has("blk.0.ffn_up.bias");
        self.qk_norm = gguf.has("blk.0.attn_q_norm.weight");
        if let Some(moe) = &mut self.moe {
            moe.see_tensors(gguf);
        }
        if gguf.has(DIVISORS) {
            let divisors = divisors(gguf, self.rope.dim)?;
            self.rope.scaling = Scaling::Divisors { divisors, magnitude: 1.0 };
        }
        Ok(())
    }
}

impl Moe {
    fn see_tensors(&mut self, gguf: &Gguf) {
        let has_router = |layer: usize| gguf.has(&format!("blk.{layer}.ffn_gate_inp.weight"));
        self.layers = (0..self.layers.len()).map(has_router).collect();
        let first = self.layers.iter().position(|is_moe| *is_moe).unwrap_or(0);
        let shared = gguf.tensor(&format!("blk.{first}.ffn_up_shexp.weight"));
        self.shared_width = shared.map_or(0, |tensor| tensor.info.shape[0]);
        self.correction_bias = gguf.has(&format!("blk.{first}.exp_probs_b.bias"));
        self.interleaved = false;
    }
}

fn family(gguf: &Gguf) -> Result<(&'static Family, &str), LoadError> {
    let missing = || LoadError::config(gguf.path(), "general.architecture is missing");
    let name = gguf.metadata().string("general.architecture").ok_or_else(missing)?;
    let known = || FAMILIES.iter().flat_map(|family| family.gguf_names).copied().collect::<Vec<_>>().join(", ");
    let unknown = || LoadError::config(gguf.path(), format!("the architecture {name} is not known; {} are", known()));
    Ok((Family::of_gguf(name).ok_or_else(unknown)?, name))
}

/// Metadata on their way to config.json's names.
struct Translation<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    object: Map<String, Value>,
    /// What the file itself calls each name.
    own_keys: BTreeMap<String, String>,
}

impl<'a> Translation<'a> {
    fn of(gguf: &'a Gguf, architecture: &'a str) -> Result<Self, LoadError> {
        let metadata = gguf.metadata();
        let mut translation = Self { metadata, architecture, object: Map::new(), own_keys: BTreeMap::new() };
        for (own, names) in KEYS {
            names.iter().for_each(|name| translation.translate(own, name));
        }
        translation.heads_of_deepseek();
        translation.router();
        translation.windows();
        translation.queries_of_gemma();
        translation.rope(gguf)?;
        Ok(translation)
    }

    /// The settings, with the tokens that the tokenizer's metadata name.
    fn fields(mut self, gguf: &Gguf) -> Result<Fields, LoadError> {
        // The embedding has a row per token; that is what counts, whatever the metadata's own number.
        let table = gguf.tensor("token_embd.weight");
        let table = table.ok_or_else(|| LoadError::tensor(gguf.path(), "token_embd.weight", "is missing"))?;
        self.set("vocab_size", json!(table.info.shape[0]));
        for (own, name) in [("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")] {
            if let Some(id) = self.metadata.unsigned(&format!("tokenizer.ggml.{own}")) {
                self.set(name, json!(id));
            }
        }
        // Layers that predict tokens further ahead are counted, too, and not computed.
        let ahead = self.number("nextn_predict_layers").unwrap_or(0.0) as u64;
        if let Some(layers) = self.object.get("num_hidden_layers").and_then(Value::as_u64) {
            self.set("num_hidden_layers", json!(layers.saturating_sub(ahead)));
        }
        Ok(Fields::translated(gguf.path(), self.object, self.own_keys))
    }

    fn translate(&mut self, own: &str, name: &str) {
        self.own_keys.insert(name.into(), format!("{}.{own}", self.architecture));
        if let Some(value) = self.value(own) {
            self.set(name, plain(value));
        }
    }

    fn value(&self, own: &str) -> Option<&'a MetadataValue> {
        self.metadata.get(&format!("{}.{own}", self.architecture))
    }

    fn number(&self, own: &str) -> Option<f64> {
        self.metadata.float(&format!("{}.{own}", self.architecture))
    }

    /// A dot leads into an object.
    fn set(&mut self, name: &str, value: Value) {
        match name.split_once('.') {
            None => self.object.insert(name.into(), value),
            Some((object, key)) => {
                let object = self.object.entry(object).or_insert_with(|| json!({}));
                object.as_object_mut().and_then(|object| object.insert(key.into(), value))
            }
        };
    }

    /// The sizes of latent heads; other files have the turned part of a head under the same key.
    fn heads_of_deepseek(&mut self) {
        let Some(turned) = self.number("rope.dimension_count") else { return };
        if self.value("attention.kv_lora_rank").is_none() {
            let head_dim = self
                .number("attention.key_length")
                .or_else(|| Some(self.number("embedding_length")? / self.number("attention.head_count")?.max(1.0)));
            self.own_keys.insert("partial_rotary_factor".into(), format!("{}.rope.dimension_count", self.architecture));
            self.set("partial_rotary_factor", json!(turned / head_dim.unwrap_or(turned).max(1.0)));
            return;
        }
        // Files in the absorbed form have the keys' and values' own lengths under keys of their own.
        let key = self.number("attention.key_length_mla").or(self.number("attention.key_length"));
        let value = self.number("attention.value_length_mla").or(self.number("attention.value_length"));
        self.set("qk_rope_head_dim", json!(turned as u64));
        self.set("qk_nope_head_dim", json!((key.unwrap_or(0.0) - turned).max(0.0) as u64));
        self.set("v_head_dim", json!(value.unwrap_or(0.0) as u64));
        self.set("rope_interleave", json!(true));
    }

    fn router(&mut self) {
        if let Some(name) = match self.number("expert_gating_func") {
            Some(1.0) => Some("softmax"),
            Some(2.0) => Some("sigmoid"),
            _ => None,
        } {
            self.set("scoring_func", json!(name));
        } else if self.value("attention.kv_lora_rank").is_some() {
            // Written before V3, which was the first to have another function.
            self.set("scoring_func", json!("softmax"));
        }
        if self.value("expert_weights_norm").is_none() {
            // The families whose files leave it out all normalise.
            self.set("norm_topk_prob", json!(self.value("attention.kv_lora_rank").is_none()));
        }
        if self.value("expert_feed_forward_length").is_some() && self.value("feed_forward_length").is_none() {
            self.translate("expert_feed_forward_length", "intermediate_size");
        }
    }

    /// Files of Gemma's largest model don't tell that its queries are scaled by another length than a head's.
    fn queries_of_gemma(&mut self) {
        let [layers, hidden_size, heads] =
            ["block_count", "embedding_length", "attention.head_count"].map(|key| self.number(key));
        if let ("gemma3", Some(62.0), Some(hidden_size), Some(heads)) = (self.architecture, layers, hidden_size, heads)
        {
            self.set("query_pre_attn_scalar", json!(hidden_size / heads.max(1.0)));
        }
    }

    /// A pattern is a number (every so manieth layer sees all), or says of each layer whether it has the window.
    fn windows(&mut self) {
        let name = "attention.sliding_window_pattern";
        match self.value(name) {
            Some(MetadataValue::Array(layers)) => {
                let kind = |slides: &MetadataValue| match slides {
                    MetadataValue::Bool(true) => "sliding_attention",
                    _ => "full_attention",
                };
                self.set("layer_types", layers.iter().map(kind).collect());
            }
            Some(_) => self.translate(name, "sliding_window_pattern"),
            None => {}
        }
    }

    fn rope(&mut self, gguf: &Gguf) -> Result<(), LoadError> {
        let own = |key: &str| format!("{}.{key}", self.architecture);
        let kind = self.metadata.string(&own("rope.scaling.type"));
        let factor = self.number("rope.scaling.factor").or(self.number("rope.scale_linear"));
        match (kind, factor) {
            (None, Some(factor)) => {
                self.set("rope_scaling.type", json!("linear"));
                self.set("rope_scaling.factor", json!(factor));
            }
            (Some("none"), _) | (Some("linear"), None) => self.set("rope_scaling.type", json!("default")),
            (Some("linear" | "yarn"), _) | (None, None) => {}
            (Some(other), _) => {
                let fault = format!("{} must be none, linear or yarn, got {other}", own("rope.scaling.type"));
                return Err(LoadError::config(gguf.path(), fault));
            }
        }
        if let Some(multiplier) = self.number("rope.scaling.yarn_log_multiplier") {
            // Of the equal pair mscale and mscale_all_dim, a tenth.
            let mscale = json!(multiplier / 0.1);
            self.set("rope_scaling.mscale", mscale.clone());
            self.set("rope_scaling.mscale_all_dim", mscale);
        }
        if self.architecture == "gpt-oss" {
            self.set("rope_scaling.truncate", json!(false));
        }
        Ok(())
    }
}

fn plain(value: &MetadataValue) -> Value {
    match value {
        MetadataValue::Unsigned(number) => json!(number),
        MetadataValue::Signed(number) => json!(number),
        // A number as it was before it became an f32: 1e-6 and not 9.99999997e-7.
        MetadataValue::Float(number) => (*number as f32).to_string().parse::<f64>().map_or(json!(number), |n| json!(n)),
        MetadataValue::Bool(flag) => json!(flag),
        MetadataValue::String(text) => json!(text),
        MetadataValue::Array(_) => json!([]),
    }
}

fn divisors(gguf: &Gguf, rope_dim: usize) -> Result<Vec<f32>, LoadError> {
    let fault = |fault: &str| LoadError::tensor(gguf.path(), DIVISORS, fault);
    let tensor = gguf.tensor(DIVISORS).ok_or_else(|| fault("is missing"))?;
    if tensor.info.count() != Some(rope_dim / 2) {
        return Err(fault("must have a divisor for every two elements of a head"));
    }
    let values = tensor.values(0..rope_dim / 2)?;
    let sound = values.iter().all(|value| *value > 0.0 && value.is_finite());
    sound.then_some(values).ok_or_else(|| fault("holds a divisor that is not a positive number"))
}

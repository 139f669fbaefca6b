//! Tensor names: Hugging Face's, which the models use, and GGUF's for the same tensors. GGUF's are those of llama.cpp's
//! `gguf-py/gguf/constants.py`.

use crate::{
    models::{BranchNorms, ModelConfig},
    weights::{
        Part,
        layout::{Place, half, heads},
    },
};

/// Names within `model.layers.N.` and within `blk.N.`, of which the first that the file has counts.
const LAYER: [(&str, &[&str]); 29] = [
    ("input_layernorm", &["attn_norm"]),
    ("self_attn.q_proj", &["attn_q", "attn_qkv"]),
    ("self_attn.k_proj", &["attn_k", "attn_qkv"]),
    ("self_attn.v_proj", &["attn_v", "attn_qkv"]),
    ("self_attn.o_proj", &["attn_output"]),
    ("self_attn.q_norm", &["attn_q_norm"]),
    ("self_attn.k_norm", &["attn_k_norm"]),
    ("self_attn.q_a_proj", &["attn_q_a"]),
    ("self_attn.q_a_layernorm", &["attn_q_a_norm"]),
    ("self_attn.q_b_proj", &["attn_q_b"]),
    ("self_attn.kv_a_proj_with_mqa", &["attn_kv_a_mqa"]),
    ("self_attn.kv_a_layernorm", &["attn_kv_a_norm"]),
    ("self_attn.kv_b_proj", &["attn_kv_b"]),
    ("self_attn.k_b_proj", &["attn_k_b"]),
    ("self_attn.v_b_proj", &["attn_v_b"]),
    ("post_self_attn_layernorm", &["post_attention_norm"]),
    ("post_attention_layernorm", &["ffn_norm", "post_attention_norm"]),
    ("pre_feedforward_layernorm", &["ffn_norm"]),
    ("post_feedforward_layernorm", &["post_ffw_norm"]),
    ("post_mlp_layernorm", &["post_ffw_norm"]),
    ("mlp.gate", &["ffn_gate_inp"]),
    ("mlp.gate_proj", &["ffn_gate", "ffn_up"]),
    ("mlp.up_proj", &["ffn_up"]),
    ("mlp.down_proj", &["ffn_down"]),
    ("mlp.shared_experts.gate_proj", &["ffn_gate_shexp"]),
    ("mlp.shared_experts.up_proj", &["ffn_up_shexp"]),
    ("mlp.shared_experts.down_proj", &["ffn_down_shexp"]),
    ("mlp.gate.e_score_correction_bias", &["exp_probs_b"]),
    ("self_attn.sinks", &["attn_sinks"]),
];

/// Names of a layer's stacked experts, which Hugging Face numbers: `mlp.experts.E.` and one of these.
const EXPERTS: [(&str, &[&str]); 3] = [
    ("gate_proj", &["ffn_gate_exps", "ffn_gate_up_exps"]),
    ("up_proj", &["ffn_up_exps", "ffn_gate_up_exps"]),
    ("down_proj", &["ffn_down_exps"]),
];

/// Names outside the layers.
const WHOLE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Where the tensor that Hugging Face calls `name` lies; one that has no place in such files keeps its name.
pub(crate) fn place(name: &str, config: &ModelConfig, exists: &dyn Fn(&str) -> bool) -> Place {
    find(name, config, exists).unwrap_or_else(|| Place::whole(name))
}

fn find(name: &str, config: &ModelConfig, exists: &dyn Fn(&str) -> bool) -> Option<Place> {
    let (stem, kind) = name.rsplit_once('.')?;
    let Some(rest) = stem.strip_prefix("model.layers.") else {
        let (_, own) = WHOLE.iter().find(|(theirs, _)| *theirs == stem)?;
        return Some(Place::whole(format!("{own}.{kind}")));
    };
    let (layer, field) = rest.split_once('.')?;
    let block = |own: &str, kind: &str| format!("blk.{layer}.{own}.{kind}");
    if let Some((expert, field)) = field.strip_prefix("mlp.experts.").and_then(|rest| rest.split_once('.')) {
        let own = first_there(&EXPERTS, field, &|own| exists(&block(own, kind)))?;
        let rows = if own == "ffn_gate_up_exps" { Part::Half(half(field)?) } else { Part::All };
        return Some(Place { expert: Some(expert.parse().ok()?), rows, ..Place::whole(block(own, kind)) });
    }
    // What has no `.weight` in Hugging Face's folders has a kind of its own here.
    let (field, kind) = match kind {
        "e_score_correction_bias" => (format!("{field}.{kind}"), "bias"),
        "sinks" => (format!("{field}.{kind}"), "weight"),
        _ => (field.to_owned(), kind),
    };
    let own = match (&*field, config.branch_norms) {
        // Elsewhere this is the MLP's own norm.
        ("post_attention_layernorm", BranchNorms::Gemma) => "post_attention_norm",
        _ => first_there(&LAYER, &field, &|own| exists(&block(own, kind)))?,
    };
    let fused_up = !exists(&block("ffn_gate", "weight"));
    let rows = match (own, &*field) {
        ("attn_qkv", _) => heads(field.strip_prefix("self_attn.")?, config)?,
        ("ffn_up", "mlp.gate_proj") => Part::Half(0),
        ("ffn_up", "mlp.up_proj") if fused_up => Part::Half(1),
        _ => Part::All,
    };
    Some(Place { rows, ..Place::whole(block(own, kind)) })
}

/// The first of a field's names that is there, or else the first of all.
fn first_there(
    table: &[(&str, &'static [&'static str])],
    field: &str,
    exists: &dyn Fn(&str) -> bool,
) -> Option<&'static str> {
    let (_, own) = table.iter().find(|(theirs, _)| *theirs == field)?;
    own.iter().find(|own| exists(own)).or(own.first()).copied()
}

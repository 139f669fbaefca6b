//! Where files keep what models call by one name.
//!
//! Models ask by the names that Hugging Face's folders usually have: `model.layers.3.self_attn.q_proj.weight`. A folder of
//! Paddle's, a GGUF file, or a folder whose matrices are fused or stacked has the same numbers elsewhere.

use super::{Part, gguf};
use crate::models::ModelConfig;

/// A way to name tensors and to lay them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Hugging Face's.
    HuggingFace,
    /// ERNIE's folders for Paddle: the prefix `ernie.`, and matrices stored as `[inputs, outputs]`.
    Paddle,
    /// GGUF's.
    Gguf,
}

/// Where a tensor, or the tensor that a matrix is part of, lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file's own name of the tensor.
    pub tensor: String,
    /// Of matrices that are stacked, which one.
    pub expert: Option<usize>,
    /// Whether the tensor, or each of the stacked, is `[inputs, outputs]`.
    pub transposed: bool,
    /// Which rows.
    pub rows: Part,
}

impl Place {
    /// A tensor of its own.
    pub(crate) fn whole(tensor: impl Into<String>) -> Self {
        Self { tensor: tensor.into(), expert: None, transposed: false, rows: Part::All }
    }
}

impl Layout {
    /// The layout of a folder with tensors of these names.
    pub(crate) fn of_folder<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        if names.any(|name| name.starts_with("ernie.")) { Layout::Paddle } else { Layout::HuggingFace }
    }

    /// Where `name` lies in a checkpoint that has the tensors `exists` says; its own place where it lies nowhere.
    pub(crate) fn place(self, name: &str, config: &ModelConfig, exists: &dyn Fn(&str) -> bool) -> Place {
        if self == Layout::Gguf {
            return gguf::place(name, config, exists);
        }
        let candidates = self.candidates(name, config);
        let found = candidates.iter().position(|place| exists(&place.tensor)).unwrap_or(0);
        candidates.into_iter().nth(found).expect("a tensor's own name is a candidate")
    }

    /// Where a folder may keep it, the likeliest first.
    fn candidates(self, name: &str, config: &ModelConfig) -> Vec<Place> {
        let name = match (self, name.strip_prefix("model.")) {
            (Layout::Paddle, Some(rest)) => format!("ernie.{rest}"),
            _ => name.to_owned(),
        };
        let transposed = self == Layout::Paddle && name.ends_with(".weight") && !name.contains("embed_tokens");
        let mut places = vec![Place { transposed, ..Place::whole(name.clone()) }];
        let Some((stem, kind)) = name.rsplit_once('.') else { return places };
        let Some((parent, field)) = stem.rsplit_once('.') else { return places };
        let fused = |field: &str, rows| Place { transposed, rows, ..Place::whole(format!("{parent}.{field}.{kind}")) };
        if let Some(half) = half(field) {
            places.extend(["gate_up_proj", "up_gate_proj"].map(|field| fused(field, Part::Half(half))));
        }
        if let Some(heads) = heads(field, config) {
            places.push(fused("qkv_proj", heads));
        }
        if field == "gate" && kind == "e_score_correction_bias" {
            places.push(Place::whole(format!("{parent}.moe_statics.{kind}")));
        } else if field == "gate" {
            places.push(Place::whole(format!("{parent}.router.{kind}")));
        }
        places.extend(stacked(parent, field, kind, config));
        places
    }
}

/// All experts in one tensor, `[experts, …]`.
fn stacked(parent: &str, field: &str, kind: &str, config: &ModelConfig) -> Option<Place> {
    let (experts, expert) = parent.rsplit_once('.')?;
    let expert = expert.parse().ok().filter(|_| experts.ends_with(".experts"))?;
    let interleaved = config.moe.as_ref().is_some_and(|moe| moe.interleaved);
    let suffix = if kind == "bias" { "_bias" } else { "" };
    let (field, rows) = match (half(field), interleaved) {
        (Some(half), true) => ("gate_up_proj", Part::EveryOther(half)),
        (Some(half), false) => ("gate_up_proj", Part::Half(half)),
        (None, _) => (field, Part::All),
    };
    let tensor = format!("{experts}.{field}{suffix}");
    Some(Place { tensor, expert: Some(expert), transposed: interleaved && kind == "weight", rows })
}

/// Gates come before ups where both are in one.
pub(crate) fn half(field: &str) -> Option<usize> {
    ["gate_proj", "up_proj"].iter().position(|name| *name == field)
}

/// Query rows come first, then key rows, then value rows.
pub(crate) fn heads(field: &str, config: &ModelConfig) -> Option<Part> {
    let (query, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    match field {
        "q_proj" => Some(Part::Run(0, query)),
        "k_proj" => Some(Part::Run(query, kv)),
        "v_proj" => Some(Part::Run(query + kv, kv)),
        _ => None,
    }
}

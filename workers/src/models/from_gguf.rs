//! A model's shape from a GGUF file's metadata.

use std::path::Path;

use super::{FAMILIES, Family, ModelConfig, Rope, Scaling};
use crate::weights::{LoadError, Metadata, gguf::Gguf};

/// Divisors of the rotary frequencies, `[head_dim / 2]`, where the model was stretched the way of Llama 3.
const DIVISORS: &str = "rope_freqs.weight";

impl ModelConfig {
    /// Reads and checks a GGUF file's metadata; what they leave unsaid is seen from the tensors.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self, LoadError> {
        let keys = Keys::of(gguf)?;
        let (hidden_size, heads) = (keys.count("embedding_length")?, keys.count("attention.head_count")?);
        let head_dim = keys.optional("attention.key_length")?;
        let head_dim = head_dim.unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
        keys.refuse_unless("attention.value_length", head_dim)?;
        keys.refuse_unless("rope.dimension_count", head_dim)?;
        let token = |key| keys.metadata.unsigned(key).and_then(|id| u32::try_from(id).ok());
        let config = Self {
            architecture: keys.family.architecture(),
            vocab_size: keys.vocabulary(gguf)?,
            hidden_size,
            layers: keys.count("block_count")?,
            heads,
            kv_heads: keys.optional("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            intermediate_size: keys.count("feed_forward_length")?,
            rms_norm_eps: keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(keys.family.unsaid.rms_norm_eps)
                as f32,
            rope: keys.rope(gguf, head_dim)?,
            tied: gguf.find("lm_head.weight").is_none(),
            attention_bias: gguf.find("model.layers.0.self_attn.q_proj.bias").is_some(),
            mlp_bias: gguf.find("model.layers.0.mlp.gate_proj.bias").is_some(),
            qk_norm: keys.family.qk_norm,
            max_positions: keys.count("context_length")?,
            bos_id: token("tokenizer.ggml.bos_token_id"),
            eos_ids: token("tokenizer.ggml.eos_token_id").into_iter().collect(),
        };
        config.checked(gguf.path())
    }
}

/// The keys of one family: all begin with its name.
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    family: &'static Family,
}

impl<'a> Keys<'a> {
    fn of(gguf: &'a Gguf) -> Result<Self, LoadError> {
        let (path, metadata) = (gguf.path(), gguf.metadata());
        let missing = || LoadError::config(path, "general.architecture is missing");
        let name = metadata.string("general.architecture").ok_or_else(missing)?;
        let known = || FAMILIES.map(|family| family.gguf_name).join(", ");
        let unknown = || LoadError::config(path, format!("the architecture {name} is not known; {} are", known()));
        Ok(Self { path, metadata, family: Family::of_gguf(name).ok_or_else(unknown)? })
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.gguf_name)
    }

    fn fault(&self, key: &str, fault: &str) -> LoadError {
        LoadError::config(self.path, format!("{} {fault}", self.key(key)))
    }

    fn optional(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let name = self.key(key);
        if self.metadata.get(&name).is_none() {
            return Ok(None);
        }
        let count = self.metadata.unsigned(&name).and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| self.fault(key, "must be one whole number >= 0"))
    }

    fn count(&self, key: &str) -> Result<usize, LoadError> {
        self.optional(key)?.ok_or_else(|| self.fault(key, "is missing"))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let name = self.key(key);
        if self.metadata.get(&name).is_none() {
            return Ok(None);
        }
        let number = self.metadata.float(&name).filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.fault(key, "must be a number"))
    }

    fn refuse_unless(&self, key: &str, expected: usize) -> Result<(), LoadError> {
        match self.optional(key)? {
            Some(found) if found != expected => {
                Err(self.fault(key, &format!("must be {expected}, the elements of a head, got {found}")))
            }
            _ => Ok(()),
        }
    }

    /// The embedding has a row per token; that is what counts, whatever the metadata's own number.
    fn vocabulary(&self, gguf: &Gguf) -> Result<usize, LoadError> {
        let name = "model.embed_tokens.weight";
        let table = gguf.find(name).ok_or_else(|| LoadError::tensor(self.path, Gguf::own_name(name), "is missing"))?;
        Ok(table.shape[0])
    }

    fn rope(&self, gguf: &Gguf, head_dim: usize) -> Result<Rope, LoadError> {
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        Ok(Rope { theta, scaling: self.scaling(gguf, head_dim)?, pairing: self.family.gguf_pairing })
    }

    fn scaling(&self, gguf: &Gguf, head_dim: usize) -> Result<Scaling, LoadError> {
        if gguf.find(DIVISORS).is_some() {
            return divisors(gguf, head_dim).map(Scaling::Divisors);
        }
        let factor = match self.float("rope.scaling.factor")? {
            None => self.float("rope.scale_linear")?,
            factor => factor,
        };
        let kind = self.metadata.string(&self.key("rope.scaling.type"));
        match (kind.unwrap_or("linear"), factor) {
            ("none", _) | ("linear", None) => Ok(Scaling::None),
            ("linear", Some(factor)) if factor > 0.0 => Ok(Scaling::Linear { factor }),
            ("linear", Some(factor)) => Err(self.fault("rope.scaling.factor", &format!("must be > 0, got {factor}"))),
            (other, _) => Err(self.fault("rope.scaling.type", &format!("must be none or linear, got {other}"))),
        }
    }
}

fn divisors(gguf: &Gguf, head_dim: usize) -> Result<Vec<f32>, LoadError> {
    let fault = |fault: &str| LoadError::tensor(gguf.path(), DIVISORS, fault);
    let matrix = gguf.matrix(DIVISORS).filter(|matrix| matrix.rows() == 1 && matrix.columns() == head_dim / 2);
    let matrix = matrix.ok_or_else(|| fault("must have a divisor for every two elements of a head"))?;
    if matrix.dtype() != kernels::DType::F32 {
        return Err(fault("must be F32"));
    }
    let values = matrix.row(0).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
    let values: Vec<f32> = values.collect();
    let sound = values.iter().all(|value| *value > 0.0 && value.is_finite());
    sound.then_some(values).ok_or_else(|| fault("holds a divisor that is not a positive number"))
}

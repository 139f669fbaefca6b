//! What distinguishes one family of models from another, as data: how its settings are written and what they leave unsaid.

use kernels::rotary::Pairing;

use super::FAMILIES;

/// One family. All of them are pre-norm decoders with rotary attention and a SwiGLU block; what differs is here.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// Its name in config.json's `architectures`, the present one first.
    pub architectures: &'static [&'static str],
    /// Its name in config.json's `model_type`, for files without `architectures`.
    pub model_type: &'static str,
    /// Its name in a GGUF file's `general.architecture`.
    pub gguf_name: &'static str,
    /// Which elements of a head turn together in Hugging Face's weights …
    pub pairing: Pairing,
    /// … and in GGUF's, whose converter may have permuted the rows of queries and keys.
    pub gguf_pairing: Pairing,
    /// Whether query and key heads are normalised before they are turned.
    pub qk_norm: bool,
    /// The key that says whether query, key, value and output projections have biases.
    pub attention_bias_key: &'static str,
    /// The key that says whether the MLP has biases, if the family can have them.
    pub mlp_bias_key: Option<&'static str>,
    /// Settings that a file may leave out.
    pub unsaid: Unsaid,
}

/// The values of absent keys, as the family's class in transformers has them.
#[derive(Debug, PartialEq)]
pub struct Unsaid {
    /// Elements of a head; `None`: hidden size ÷ heads.
    pub head_dim: Option<usize>,
    /// Whether the head shares the embedding's weights.
    pub tied: bool,
    /// Added to the mean square in a norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest context.
    pub max_positions: usize,
}

impl Family {
    /// The family that config.json calls `name`.
    pub(super) fn of_architecture(name: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.architectures.contains(&name))
    }

    /// The family of a `model_type`.
    pub(super) fn of_model_type(name: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.model_type == name)
    }

    /// The family that GGUF calls `name`.
    pub(super) fn of_gguf(name: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|family| family.gguf_name == name)
    }

    /// Its present name.
    pub fn architecture(&self) -> &'static str {
        self.architectures[0]
    }
}

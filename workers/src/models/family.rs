//! What distinguishes one family of models from another: its names, what its settings leave unsaid, and a function for
//! the rest.

use kernels::rotary::Pairing;

use super::{FAMILIES, ModelConfig};
use crate::weights::{Fields, LoadError};

/// One family. All of them are pre-norm decoders with rotary attention and a gated MLP.
#[derive(Debug)]
pub struct Family {
    /// Its names in config.json's `architectures`, the present one first.
    pub architectures: &'static [&'static str],
    /// Its name in config.json's `model_type`, for files without `architectures`.
    pub model_type: &'static str,
    /// Its names in a GGUF file's `general.architecture`; none: there are no such files.
    pub gguf_names: &'static [&'static str],
    /// Which elements of a head turn together in Hugging Face's weights …
    pub pairing: Pairing,
    /// … and in GGUF's, whose converter may have permuted the rows of queries and keys.
    pub gguf_pairing: Pairing,
    /// Settings that a file may leave out.
    pub unsaid: Unsaid,
    /// Makes of Llama's shape, as far as the settings that all families share give it, this family's.
    pub(super) shape: fn(&Fields, &mut ModelConfig) -> Result<(), LoadError>,
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
    /// Share of a head that turns.
    pub partial_rotary_factor: f64,
}

impl Unsaid {
    /// What Llama leaves unsaid, and most others too.
    pub(super) const LLAMA: Self = Self {
        head_dim: None,
        tied: false,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        max_positions: 2048,
        partial_rotary_factor: 1.0,
    };
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
        FAMILIES.into_iter().find(|family| family.gguf_names.contains(&name))
    }

    /// Its present name.
    pub fn architecture(&self) -> &'static str {
        self.architectures[0]
    }
}

//! How a model is loaded, beside what its files say.

use serde::{Deserialize, Serialize};

/// What a rank decides beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Longest sequence, tokens: positions of the rotary table.
    pub max_model_len: usize,
    /// How weights are taken.
    pub weights: WeightOptions,
}

/// How weights are taken, the same on all ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightOptions {
    /// Whether experts are handed out whole; else every rank has a part of each one's width.
    pub whole_experts: bool,
}

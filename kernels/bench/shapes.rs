//! The models whose shapes are measured.

use crate::{Heads, rotary::Pairing};

/// What operations need to know of a model.
#[derive(Clone, Copy)]
pub(super) struct Model {
    /// Elements of a hidden state.
    pub(super) hidden: usize,
    /// Elements between the products of an MLP.
    pub(super) intermediate: usize,
    pub(super) heads: Heads,
    pub(super) pairing: Pairing,
}

/// SmolLM2-135M and ERNIE-4.5-0.3B.
pub(super) const MODELS: [Model; 2] = [
    Model { hidden: 576, intermediate: 1536, heads: heads(9, 3, 64), pairing: Pairing::Half },
    Model { hidden: 1024, intermediate: 3072, heads: heads(16, 2, 128), pairing: Pairing::Interleaved },
];

/// The head of SmolLM2: inputs and outputs.
pub(super) const HEAD: [usize; 2] = [576, 49_152];

const fn heads(query: usize, kv: usize, dim: usize) -> Heads {
    Heads { query, kv, dim, group: query / kv, first_in_group: 0, values_from: None }
}

/// `9 heads on 3 of 64`
pub(super) fn told(heads: &Heads) -> String {
    format!("{} heads on {} of {}", heads.query, heads.kv, heads.dim)
}

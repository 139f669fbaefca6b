//! The frame of the mask ring: which tokens a guided sequence may go on with.
//!
//! Masks travel apart from the steps: the server computes them while the ranks are in the forward pass of the very step that
//! will need them, and only rank 0, which samples, reads them.

use serde::{Deserialize, Serialize};

use super::step::SequenceId;

/// The mask for one choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMask {
    /// Whose choice.
    pub id: SequenceId,
    /// The sequence's length before it: the mask is for the token at this index.
    pub position: u32,
    /// Which tokens are allowed.
    pub allowed: Allowed,
}

/// A set of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allowed {
    /// Every token.
    All,
    /// These few, ascending; of use where they are fewer than `Bits` has words.
    Only(Vec<u32>),
    /// Token `t` where bit `t % 32` of word `t / 32` is set; what is beyond the last word is forbidden.
    Bits(Vec<u32>),
}

impl Allowed {
    /// Whether a token is in the set.
    pub fn contains(&self, token: u32) -> bool {
        match self {
            Self::All => true,
            Self::Only(tokens) => tokens.binary_search(&token).is_ok(),
            Self::Bits(words) => words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1),
        }
    }
}

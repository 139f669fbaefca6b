//! The frame of the return ring: what rank 0 sampled in a step.

use serde::{Deserialize, Serialize};

use super::step::SequenceId;

/// One step's outcome. Every step is reported, an empty one too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's number.
    pub step: u64,
    /// One entry per sampling chunk, in the order of the batch.
    pub tokens: Vec<SampledToken>,
}

/// One sampled token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampledToken {
    /// The sequence that it continues.
    pub id: SequenceId,
    /// The token.
    pub token: u32,
    /// Present where the sequence's sampling asked for log-probabilities.
    pub logprobs: Option<Logprobs>,
}

/// Log-probabilities (natural, of the untempered and unpenalised distribution) at one position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// Of the sampled token.
    pub sampled: f32,
    /// The most likely tokens with theirs, best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

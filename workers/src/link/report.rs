//! The frame of the return ring: what rank 0 sampled in a step.

use serde::{Deserialize, Serialize};

use super::step::SequenceId;

/// One step's outcome. Every step is reported, an empty one too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's number.
    pub step: u64,
    /// One entry per sampling chunk, in the order of the batch.
    pub tokens: Vec<SampledTokens>,
    /// One entry per chunk with scored positions, in the order of the batch.
    pub prompt_logprobs: Vec<PromptLogprobs>,
    /// One entry per pooled sequence whose last token was computed, in the order of the batch.
    pub embeddings: Vec<Embedding>,
}

/// What became of one sampling chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampledTokens {
    /// The sequence that was to be continued.
    pub id: SequenceId,
    /// Its next token, or why there is none; and behind each token of the [draft](super::step::Chunk::draft) that turned out
    /// to be right, what comes after it. So at least one, and all but the last are the draft's.
    pub outcomes: Vec<Outcome>,
}

/// A choice, or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The ranks appended this token.
    Chosen {
        /// The token.
        token: u32,
        /// Present where the sequence's sampling asked for log-probabilities.
        logprobs: Option<Logprobs>,
        /// Whether it was more likely than [`Sampling::confidence_threshold`](super::sampling::Sampling), where there is one.
        confident: bool,
    },
    /// Its mask had not come when everything else was done. The ranks appended nothing and hold the chunk's last token
    /// for not computed: a later step computes that token again and samples.
    Deferred,
    /// Masks, bans and stop tokens forbid every token there is. The ranks appended nothing; only this sequence is concerned.
    NothingLeft,
}

impl Outcome {
    /// A choice of which nothing is told but the token.
    pub fn chosen(token: u32) -> Self {
        Self::Chosen { token, logprobs: None, confident: false }
    }

    /// The token, if one was chosen.
    pub fn token(&self) -> Option<u32> {
        match *self {
            Self::Chosen { token, .. } => Some(token),
            Self::Deferred | Self::NothingLeft => None,
        }
    }
}

/// Log-probabilities of a part of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptLogprobs {
    /// Whose prompt.
    pub id: SequenceId,
    /// One entry per scored position: of the token that follows it in the prompt, given all up to the position.
    pub entries: Vec<Logprobs>,
}

/// A prompt as one vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// Whose prompt.
    pub id: SequenceId,
    /// `[hidden size]`, not normalised.
    pub values: Vec<f32>,
}

/// Log-probabilities (natural, of the untempered and unpenalised distribution) at one position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// Of the sampled token (in prompts: of the token that is there).
    pub sampled: f32,
    /// How many tokens are more likely than it.
    pub rank: u32,
    /// The most likely tokens with theirs, best first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

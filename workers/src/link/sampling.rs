//! How a sequence's next token is chosen: the one place that names a sampling parameter, its default and its bound.

use serde::{Deserialize, Serialize};

/// Parameters of one sequence. Bounds are checked where a request enters ([`Sampling::check`]); ranks rely on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; below 1e-5 the most likely token is taken. `>= 0`.
    pub temperature: f32,
    /// Keeps the smallest set of most likely tokens whose mass reaches this; 1 is off, 0 is greedy. `0..=1`.
    pub top_p: f32,
    /// Keeps this many most likely tokens; 0 is off.
    pub top_k: u32,
    /// Keeps tokens at least this fraction as likely as the likeliest; 0 is off. `0..=1`.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; 1 is off. `> 0`.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the output. `-2..=2`.
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output. `-2..=2`.
    pub frequency_penalty: f32,
    /// Of the counter-based random stream (seed, position): replaying a sequence draws the same tokens.
    pub seed: u64,
    /// The tokens in `stop_token_ids` cannot be chosen before this many were generated.
    pub min_tokens: u32,
    /// Tokens that end the sequence (the model's end of sequence among them, unless ignored).
    pub stop_token_ids: Vec<u32>,
    /// Added to the logits of these tokens, each named once; at most [`LOGIT_BIAS_MAX`]. `-100..=100`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Token sequences that the output must not contain: the last token of one is forbidden where those before it were
    /// just generated. None is empty; at most [`BAD_WORDS_TOKENS_MAX`] tokens together.
    pub bad_words: Vec<Vec<u32>>,
    /// Every choice waits for the server's [`TokenMask`](super::mask::TokenMask) of its position.
    pub guided: bool,
    /// Report whether the sampled token is more likely than this (for an early stop at repetition). `0..=1`.
    pub confidence_threshold: Option<f32>,
    /// Report log-probabilities with this many alternatives (0: the sampled token's only). `0..=20`.
    pub logprobs: Option<u32>,
    /// How many alternatives stand beside each [scored](super::step::Chunk::scored) token of the prompt. `0..=20`.
    pub prompt_alternatives: u32,
    /// Log-probabilities of the distribution after penalties and temperature, rather than of the raw one.
    pub temp_scaled_logprobs: bool,
    /// Log-probabilities renormalised over what `top_p` keeps.
    pub top_p_normalized_logprobs: bool,
}

/// The greatest seed a client may send (FastDeploy's bound).
pub const SEED_MAX: u64 = 922_337_203_685_477_580;

/// The most alternatives that `logprobs` may ask for.
pub const LOGPROBS_MAX: u32 = 20;

/// The most tokens whose logits a request may bias.
pub const LOGIT_BIAS_MAX: usize = 1024;

/// The most tokens in all the bad words of a request.
pub const BAD_WORDS_TOKENS_MAX: usize = 1024;

/// The most stop tokens that a request may name; those of the model come on top.
pub const STOP_TOKENS_MAX: usize = 1024;

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            logit_bias: Vec::new(),
            bad_words: Vec::new(),
            guided: false,
            confidence_threshold: None,
            logprobs: None,
            prompt_alternatives: 0,
            temp_scaled_logprobs: false,
            top_p_normalized_logprobs: false,
        }
    }
}

/// A parameter out of its bounds: the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter} must be {bound}, got {value}")]
pub struct OutOfBounds {
    /// The parameter's name, as clients write it.
    pub parameter: &'static str,
    /// Its bound, in words.
    pub bound: &'static str,
    /// What was sent.
    pub value: String,
}

impl Sampling {
    /// Refuses parameters outside their bounds, naming the first.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let within = |parameter, value: f32, ok: bool, bound| {
            if ok { Ok(()) } else { Err(OutOfBounds { parameter, bound, value: value.to_string() }) }
        };
        let Self { temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, .. } = *self;
        within("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "a number >= 0")?;
        within("top_p", top_p, (0.0..=1.0).contains(&top_p), "between 0 and 1")?;
        within("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
        let positive = repetition_penalty > 0.0 && repetition_penalty.is_finite();
        within("repetition_penalty", repetition_penalty, positive, "a number > 0")?;
        within("presence_penalty", presence_penalty, (-2.0..=2.0).contains(&presence_penalty), "between -2 and 2")?;
        within("frequency_penalty", frequency_penalty, (-2.0..=2.0).contains(&frequency_penalty), "between -2 and 2")?;
        if self.seed > SEED_MAX {
            let bound = "at most 922337203685477580";
            return Err(OutOfBounds { parameter: "seed", bound, value: self.seed.to_string() });
        }
        match self.logprobs {
            Some(count) if count > LOGPROBS_MAX => {
                Err(OutOfBounds { parameter: "logprobs", bound: "between 0 and 20", value: count.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// How many numbers its lists take on the way to the ranks.
    pub fn listed_numbers(&self) -> usize {
        let bad_words: usize = self.bad_words.iter().map(|word| 1 + word.len()).sum();
        self.stop_token_ids.len() + 2 * self.logit_bias.len() + bad_words
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature < 1e-5 || self.top_p < 1e-5 || self.top_k == 1
    }
}

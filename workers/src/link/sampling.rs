//! How a sequence's next token is chosen: the one place that names a sampling parameter, its default and its bound.

use serde::{Deserialize, Serialize};

/// Parameters of one sequence. Bounds are checked where a request enters ([`Sampling::check`]); ranks rely on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; below [`TEMPERATURE_MIN`] the most likely token is taken. `>= 0`.
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
    /// Log-probabilities of the raw logits divided by the temperature, unless that is greedy. As in FastDeploy, penalties and
    /// biases stay out.
    pub temp_scaled_logprobs: bool,
    /// Log-probabilities renormalised over what `top_p` keeps of them; others are minus infinity.
    pub top_p_normalized_logprobs: bool,
}

/// Below this temperature the most likely token is taken.
pub const TEMPERATURE_MIN: f32 = 1e-5;

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
    /// Whether it may happen that no token is left to choose: then the sequence does not go on.
    pub fn may_leave_nothing(&self) -> bool {
        let holds_back_stops = self.min_tokens > 0 && !self.stop_token_ids.is_empty();
        self.guided || holds_back_stops || !self.bad_words.is_empty() || !self.logit_bias.is_empty()
    }

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
        let threshold = self.confidence_threshold.unwrap_or(0.0);
        within("threshold", threshold, (0.0..=1.0).contains(&threshold), "between 0 and 1")?;
        if self.seed > SEED_MAX {
            let bound = "at most 922337203685477580";
            return Err(OutOfBounds { parameter: "seed", bound, value: self.seed.to_string() });
        }
        let alternatives = [("logprobs", self.logprobs.unwrap_or(0)), ("prompt_logprobs", self.prompt_alternatives)];
        for (parameter, count) in alternatives {
            within(parameter, count as f32, count <= LOGPROBS_MAX, "between 0 and 20")?;
        }
        self.check_lists()
    }

    fn check_lists(&self) -> Result<(), OutOfBounds> {
        let few = |parameter, found: usize, limit, bound| {
            if found <= limit { Ok(()) } else { Err(OutOfBounds { parameter, bound, value: found.to_string() }) }
        };
        few("logit_bias", self.logit_bias.len(), LOGIT_BIAS_MAX, "at most 1024 tokens")?;
        let banned = self.bad_words.iter().map(Vec::len).sum();
        few("bad_words", banned, BAD_WORDS_TOKENS_MAX, "at most 1024 tokens together")?;
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(OutOfBounds {
                parameter: "bad_words",
                bound: "words of a token at least",
                value: "none".into(),
            });
        }
        let biases = self.logit_bias.iter().map(|&(_, bias)| bias);
        match biases.into_iter().find(|bias| !(-100.0..=100.0).contains(bias)) {
            Some(bias) => {
                Err(OutOfBounds { parameter: "logit_bias", bound: "between -100 and 100", value: bias.to_string() })
            }
            None => Ok(()),
        }
    }

    /// How many numbers its lists take on the way to the ranks.
    pub fn listed_numbers(&self) -> usize {
        let bad_words: usize = self.bad_words.iter().map(|word| 1 + word.len()).sum();
        self.stop_token_ids.len() + 2 * self.logit_bias.len() + bad_words
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature < TEMPERATURE_MIN || self.top_p < 1e-5 || self.top_k == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_met_and_none_is_passed() {
        let check = |parameter: &str, set: &dyn Fn(&mut Sampling, f32), legal: &[f32], illegal: &[f32]| {
            let of = |value| {
                let mut sampling = Sampling::default();
                set(&mut sampling, value);
                sampling.check()
            };
            legal.iter().for_each(|&value| assert_eq!(of(value), Ok(()), "{parameter} {value}"));
            for &value in illegal {
                assert_eq!(of(value).map_err(|error| error.parameter), Err(parameter), "{parameter} {value}");
            }
        };
        let (infinity, nan) = (f32::INFINITY, f32::NAN);
        let unit = ([0.0, 1.0], [-0.01, 1.01, nan]);
        check("temperature", &|s, v| s.temperature = v, &[0.0, f32::MAX], &[-0.1, infinity, nan]);
        check("top_p", &|s, v| s.top_p = v, &unit.0, &unit.1);
        check("min_p", &|s, v| s.min_p = v, &unit.0, &unit.1);
        check("threshold", &|s, v| s.confidence_threshold = Some(v), &unit.0, &unit.1);
        check("repetition_penalty", &|s, v| s.repetition_penalty = v, &[0.01, f32::MAX], &[0.0, -1.0, infinity, nan]);
        check("presence_penalty", &|s, v| s.presence_penalty = v, &[-2.0, 2.0], &[-2.1, 2.1, nan]);
        check("frequency_penalty", &|s, v| s.frequency_penalty = v, &[-2.0, 2.0], &[-2.1, 2.1, nan]);
        check("logit_bias", &|s, v| s.logit_bias = vec![(7, 0.0), (8, v)], &[-100.0, 100.0], &[-101.0, 101.0, nan]);
        check("logit_bias", &|s, v| s.logit_bias = vec![(7, 0.0); v as usize], &[0.0, 1024.0], &[1025.0]);
        check("bad_words", &|s, v| s.bad_words = vec![vec![1, 2]; v as usize], &[0.0, 512.0], &[513.0]);
        check("bad_words", &|s, v| s.bad_words = vec![vec![1; v as usize]], &[1.0, 1024.0], &[0.0, 1025.0]);
        check("logprobs", &|s, v| s.logprobs = Some(v as u32), &[0.0, 20.0], &[21.0]);
        check("prompt_logprobs", &|s, v| s.prompt_alternatives = v as u32, &[0.0, 20.0], &[21.0]);
        let seed = |seed| Sampling { seed, ..Sampling::default() }.check().map_err(|error| error.parameter);
        assert_eq!((seed(SEED_MAX), seed(SEED_MAX + 1)), (Ok(()), Err("seed")));
    }
}

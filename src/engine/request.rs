//! What the API hands to the engine, and what comes back.

use std::time::Duration;

use workers::link::{report::Logprobs, sampling::Sampling, step::Pooling};

use super::guide::SharedGuide;

/// One sequence to generate. A client's request with `n = 2` becomes two of these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewRequest {
    /// The client-visible id, for logs.
    pub id: String,
    /// The prompt's tokens, at least one, all within the vocabulary; shorter than the context.
    pub prompt: Vec<u32>,
    /// How tokens are chosen. `stop_token_ids` holds the model's end-of-sequence ids too, unless the client ignores them.
    pub sampling: Sampling,
    /// Most tokens to generate, at least one; prompt and these together fit the context.
    pub max_tokens: u32,
    /// How long it may wait to be admitted; none: for ever.
    pub max_waiting: Option<Duration>,
    /// Smaller goes first; equals in the order of arrival.
    pub priority: i64,
    /// Cached prefixes are shared among requests of the same salt only.
    pub cache_salt: Option<String>,
    /// Says which tokens may come. Its own, not shared with another request; `sampling.guided` is set by the engine.
    pub guide: Option<SharedGuide>,
    /// Log-probabilities of the prompt's tokens are wanted, with this many alternatives. `0..=20`.
    pub prompt_logprobs: Option<u32>,
    /// End it once the model has been certain for so long.
    pub early_stop: Option<EarlyStop>,
    /// Nothing is generated: the prompt's hidden states are wanted, pooled. `max_tokens` is of no meaning then.
    pub pooling: Option<Pooling>,
}

/// The sign of a text that repeats itself: many tokens in a row that were each almost certain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStop {
    /// Tokens in a row, at least one.
    pub window: u32,
    /// Each more likely than this. `0..=1`.
    pub threshold: f32,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It sampled one of its stop tokens.
    Stop,
    /// It reached its `max_tokens`.
    Length,
    /// It seemed to repeat itself for ever ([`EarlyStop`]).
    Repetition,
    /// Its prompt was pooled, which was all.
    Pooled,
}

/// Why a sequence could not be finished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The waiting queue is full, or too many requests are open (429).
    #[error("the server is at its limit of {limit} concurrent requests")]
    QueueFull {
        /// The limit that was met.
        limit: usize,
    },
    /// Not admitted within its `max_waiting` (408).
    #[error("the request waited longer than {} s for its turn", .0.as_secs_f32())]
    WaitedTooLong(Duration),
    /// The server is draining or its ranks are not up yet (503).
    #[error("the server is not accepting requests: {0}")]
    Unavailable(String),
    /// The server ended while it ran or waited (503).
    #[error("the request was ended: the server is shutting down")]
    Stopped,
    /// Somebody aborted it by its id (499).
    #[error("the request was aborted")]
    Aborted,
    /// The ranks died while it ran, and won't be started again (500).
    #[error("the request was lost: {0}")]
    RanksLost(String),
    /// The ranks died of it, as far as one can tell (500).
    #[error(
        "the request was given up: twice the ranks were lost while they computed it, and it came no further between; \
         the last time: {0}"
    )]
    Poisonous(String),
    /// Its guide could not go on, or left no token to choose (400).
    #[error("the output can't be guided any further: {0}")]
    Guide(String),
    /// It can never fit: longer than the whole KV cache (400).
    #[error("{0}")]
    TooLarge(String),
}

/// What a running sequence tells its client, in this order: `Started`, the prompt's log-probabilities, tokens or an
/// embedding, then `Finished` or `Failed`. A group of ranks that dies on the way is not to be seen in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It was admitted for the first time.
    Started {
        /// Prompt tokens found in the prefix cache.
        cached_tokens: u32,
    },
    /// Log-probabilities of more of the prompt's tokens, in order, beginning with the second. All of them come before the
    /// first token, and each once.
    PromptLogprobs(Vec<Logprobs>),
    /// The pooled prompt, `[hidden size]`, not normalised.
    Embedding(Vec<f32>),
    /// One more token.
    Token {
        /// The token.
        token: u32,
        /// Present where they were asked for.
        logprobs: Option<Logprobs>,
    },
    /// Nothing follows. The token that ended it (a stop token included) came before this as a `Token`.
    Finished(Finish),
    /// Nothing follows.
    Failed(Failure),
}

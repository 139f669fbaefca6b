//! One running sequence, from the engine's events to text.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use serde::Serialize;
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::generation::Generation;
use crate::{
    engine::{
        RequestStream,
        request::{Event, Failure, Finish},
    },
    text::{Detokenizer, MessageParser, Part, Released, StopStrings, Tokenizer},
};

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop,
    /// The most tokens it may have.
    Length,
    /// It calls tools, and waits for what they say.
    ToolCalls,
}

/// What one token brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The token.
    pub token: u32,
    /// Text that is final now; often empty, where a character or a stop string isn't complete yet.
    pub text: String,
    /// The same text as parts of a message, as far as they are known.
    pub parts: Vec<Part>,
    /// Present where they were asked for.
    pub logprobs: Option<Logprobs>,
    /// Present on the last piece.
    pub finish: Option<FinishReason>,
    /// The stop string that ended the text, on the last piece.
    pub stop_string: Option<Arc<str>>,
    /// Seconds since the request's first sequence was started; filled in by [`super::running::Running`].
    pub arrival_time: f64,
}

/// What happens to a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// It is being computed; so many tokens of its prompt were in the prefix cache.
    Started {
        /// Found in the cache.
        cached_tokens: u32,
    },
    /// Log-probabilities of more of the prompt's tokens, in order, beginning with the second.
    PromptLogprobs(Vec<Logprobs>),
    /// One more token. The last one has a finish reason, and nothing follows.
    Piece(Piece),
    /// Nothing follows.
    Failed(Failure),
}

/// A sequence and the text that it has become.
pub struct Choice {
    /// The engine's side; dropping it cancels the sequence. None once the sequence has ended.
    events: Option<RequestStream>,
    words: Words,
    /// Whether the engine may end the sequence by a rule that isn't known here. Pieces then wait for the next event.
    may_be_cut: bool,
    /// The newest piece where it waits: the last one until the engine has let go of the sequence.
    last: Option<Piece>,
}

impl Choice {
    /// A sequence that was submitted just now.
    pub fn new(events: RequestStream, generation: &Generation, max_tokens: u32, tokenizer: Arc<Tokenizer>) -> Self {
        let words = Words::new(generation, max_tokens, tokenizer);
        Self { events: Some(events), words, may_be_cut: false, last: None }
    }

    /// The same, which the engine may end at any token.
    pub fn that_may_be_cut(self, may_be_cut: bool) -> Self {
        Self { may_be_cut, ..self }
    }

    /// What happens next; `None` after the end. Wakes as futures do.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        while let Some(events) = &mut self.events {
            let Poll::Ready(event) = pin!(events.next()).poll(context) else { return Poll::Pending };
            if let Some(update) = self.take(event) {
                return Poll::Ready(Some(update));
            }
        }
        Poll::Ready(self.last.take().map(Update::Piece))
    }

    fn take(&mut self, event: Option<Event>) -> Option<Update> {
        match event {
            Some(Event::Started { cached_tokens }) => Some(Update::Started { cached_tokens }),
            Some(Event::Token { token, logprobs }) => {
                let (piece, ended) = self.words.push(token, logprobs);
                self.tell(piece, ended).map(Update::Piece)
            }
            Some(Event::PromptLogprobs(entries)) => Some(Update::PromptLogprobs(entries)),
            // Nobody asked for one here.
            Some(Event::Embedding(_)) => None,
            Some(Event::Finished(finish)) => {
                self.events = None;
                if let (Finish::Repetition, Some(piece @ Piece { finish: None, .. })) = (finish, &mut self.last) {
                    self.words.cut(piece);
                }
                let unasked = || Update::Failed(Failure::RanksLost("it ended before its time".into()));
                Some(self.last.take().map_or_else(unasked, Update::Piece))
            }
            Some(Event::Failed(failure)) => self.fail(failure),
            None => self.fail(Failure::Unavailable("its engine has stopped".into())),
        }
    }

    /// The piece to tell now, when this one has come.
    fn tell(&mut self, piece: Piece, ended: Ended) -> Option<Piece> {
        match ended {
            Ended::No if !self.may_be_cut => return Some(piece),
            Ended::No | Ended::InTheEngine => {}
            Ended::HereOnly => self.events = None,
        }
        let before = self.last.replace(piece);
        // Where the engine's last word isn't waited for, what is left is told at the next call.
        if before.is_none() && self.events.is_none() { self.last.take() } else { before }
    }

    fn fail(&mut self, failure: Failure) -> Option<Update> {
        (self.events, self.last) = (None, None);
        Some(Update::Failed(failure))
    }
}

/// Whether a token was the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    /// By a rule that the engine follows too: its last word is on the way.
    InTheEngine,
    /// By a stop string, of which the engine knows nothing.
    HereOnly,
}

/// Tokens on their way to text.
struct Words {
    detokenizer: Detokenizer<Arc<Tokenizer>>,
    stops: StopStrings,
    message: MessageParser,
    stop_token_ids: Vec<u32>,
    include_stop: bool,
    min_tokens: u32,
    max_tokens: u32,
    generated: u32,
}

impl Words {
    fn new(generation: &Generation, max_tokens: u32, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            detokenizer: Detokenizer::new(tokenizer, generation.skip_special_tokens)
                .keeping(|special| generation.message.needs(special)),
            stops: StopStrings::new(&generation.stop_strings, generation.include_stop),
            message: generation.message.parser(),
            stop_token_ids: generation.sampling.stop_token_ids.clone(),
            include_stop: generation.include_stop,
            min_tokens: generation.sampling.min_tokens,
            max_tokens,
            generated: 0,
        }
    }

    fn push(&mut self, token: u32, logprobs: Option<Logprobs>) -> (Piece, Ended) {
        self.generated += 1;
        let stop_token = self.stop_token_ids.contains(&token);
        let last = stop_token || self.generated >= self.max_tokens;
        let mut text = if stop_token && !self.include_stop { String::new() } else { self.detokenizer.push(token) };
        if last {
            text.push_str(&self.detokenizer.finish());
        }
        let released = self.release(text, last);
        let mut parts = self.message.push(&released.text);
        let over = released.stopped.is_some() || self.message.is_over();
        let (finish, ended) = match (stop_token, last) {
            (true, _) if !over => (Some(FinishReason::Stop), Ended::InTheEngine),
            (false, true) if !over => (Some(FinishReason::Length), Ended::InTheEngine),
            _ if over => (Some(FinishReason::Stop), Ended::HereOnly),
            _ => (None, Ended::No),
        };
        if finish.is_some() {
            parts.extend(self.message.finish());
        }
        let finish = finish.map(|reason| self.with_calls(reason));
        let Released { text, stopped: stop_string } = released;
        (Piece { token, text, parts, logprobs, finish, stop_string, arrival_time: 0.0 }, ended)
    }

    /// Makes this piece the last, after the fact: the engine ended the sequence here.
    fn cut(&mut self, piece: &mut Piece) {
        let rest = self.detokenizer.finish();
        let rest = self.release(rest, true).text;
        piece.parts.extend(self.message.push(&rest));
        piece.parts.extend(self.message.finish());
        piece.text.push_str(&rest);
        piece.finish = Some(self.with_calls(FinishReason::Stop));
    }

    /// A message that ends by itself and has calls ends for their sake.
    fn with_calls(&self, reason: FinishReason) -> FinishReason {
        if reason == FinishReason::Stop && self.message.calls() > 0 { FinishReason::ToolCalls } else { reason }
    }

    /// Stop strings don't count before `min_tokens`.
    fn release(&mut self, text: String, last: bool) -> Released {
        let mut released = match self.generated < self.min_tokens {
            true => Released { text, stopped: None },
            false => self.stops.push(&text),
        };
        if last && released.stopped.is_none() {
            released.text.push_str(&self.stops.finish());
        }
        released
    }
}

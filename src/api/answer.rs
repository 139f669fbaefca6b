//! How a running request becomes an answer: as a whole, or event by event.

use std::collections::VecDeque;

use actix_web::{HttpResponse, web::Bytes};
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::{
    choice::{FinishReason, Piece, Update},
    error::ApiError,
    generation::StreamOptions,
    running::{Running, Usage},
    sse,
};

/// The part of every answer, and of every chunk of it, that says what it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Head {
    /// The request's id.
    pub id: String,
    /// What kind of object this is.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
}

/// One body, whole or a chunk: its head, its choices, perhaps its usage.
#[derive(Debug, Serialize, ToSchema)]
pub struct Body<'a, C> {
    /// What it is.
    #[serde(flatten)]
    pub head: &'a Head,
    /// One per sequence; in chunks one per token, of one sequence.
    pub choices: Vec<C>,
    /// What was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Where the prompt's log-probabilities stand beside the choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Value>,
}

/// How an endpoint words its answers.
pub trait Wording: 'static {
    /// Of whole answers (`streamed` false) and of chunks.
    fn head(&self, streamed: bool) -> Head;

    /// More of the log-probabilities of a sequence's prompt; all come before its first piece.
    fn scores(&mut self, _sequence: usize, _scores: Vec<Logprobs>) {}

    /// The prompt's log-probabilities, where a whole answer tells them beside its choices.
    fn prompt_logprobs(&self) -> Option<Value> {
        None
    }

    /// Of all sequences of a whole answer those that are told, in their order.
    fn choose(&self, all: Vec<Collected>) -> Vec<Collected> {
        all
    }

    /// The chunk's choice that opens a sequence, if there is one.
    fn opening(&self, index: usize) -> Option<Value>;

    /// The choices for one piece, at least one; each may be sent in a chunk of its own.
    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Value>;

    /// The choice of a whole answer.
    fn whole(&mut self, index: usize, collected: Collected) -> Value;
}

/// All that a sequence has become.
#[derive(Debug, Default)]
pub struct Collected {
    /// Its text.
    pub text: String,
    /// Its pieces; their texts are moved to `text`.
    pub pieces: Vec<Piece>,
    /// Why it ended.
    pub finish: Option<FinishReason>,
}

/// Follows the request to its end. The first failure of a sequence fails it.
pub async fn whole(mut running: Running, mut wording: impl Wording) -> Result<HttpResponse, ApiError> {
    let mut collected: Vec<Collected> = (0..running.len()).map(|_| Collected::default()).collect();
    while let Some((index, update)) = running.next().await {
        match update {
            Update::Started { .. } => {}
            Update::PromptLogprobs(scores) => wording.scores(index, scores),
            Update::Piece(piece) => collected[index].add(piece),
            Update::Failed(failure) => return Err(failure.into()),
        }
    }
    let head = wording.head(false);
    let told = wording.choose(collected);
    let choices = told.into_iter().enumerate().map(|(index, all)| wording.whole(index, all)).collect();
    let (usage, prompt_logprobs) = (Some(running.usage()), wording.prompt_logprobs());
    Ok(HttpResponse::Ok().json(Body { head: &head, choices, usage, prompt_logprobs }))
}

impl Collected {
    fn add(&mut self, mut piece: Piece) {
        self.text.push_str(&std::mem::take(&mut piece.text));
        self.finish = piece.finish;
        self.pieces.push(piece);
    }
}

/// Answers event by event. What fails before the first sequence has started still gets a status of its own.
pub async fn streamed(
    mut running: Running,
    wording: impl Wording,
    options: StreamOptions,
) -> Result<HttpResponse, ApiError> {
    let first = running.next().await;
    if let Some((_, Update::Failed(failure))) = first {
        return Err(failure.into());
    }
    let head = wording.head(true);
    let (opened, held) = (vec![false; running.len()], vec![Vec::new(); running.len()]);
    let mut events = Events { running: Some(running), wording, options, head, opened, held, ready: VecDeque::new() };
    if let Some((index, update)) = first {
        events.tell(index, update);
    }
    Ok(sse::respond(stream::unfold(events, |mut events| async { Some((events.next().await?, events)) })))
}

/// A stream's state between two events.
struct Events<W> {
    /// None once the last event is ready.
    running: Option<Running>,
    wording: W,
    options: StreamOptions,
    head: Head,
    opened: Vec<bool>,
    /// Of each sequence, choices that wait for their chunk to be full.
    held: Vec<Vec<Value>>,
    ready: VecDeque<Bytes>,
}

impl<W: Wording> Events<W> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.running.as_mut()?.next().await {
                Some((index, update)) => self.tell(index, update),
                None => self.end(),
            }
        }
    }

    fn tell(&mut self, index: usize, update: Update) {
        match update {
            Update::Started { .. } => {}
            Update::PromptLogprobs(scores) => self.wording.scores(index, scores),
            Update::Piece(piece) => {
                // The opening is sent with the first token, not before.
                if !std::mem::replace(&mut self.opened[index], true)
                    && let Some(choice) = self.wording.opening(index)
                {
                    self.chunk(vec![choice], Running::usage_before_this_piece);
                }
                for choice in self.wording.piece(index, &piece) {
                    self.held[index].push(choice);
                    if self.held[index].len() >= self.options.chunk_tokens {
                        self.flush(index);
                    }
                }
                if piece.finish.is_some() {
                    self.flush(index);
                }
            }
            Update::Failed(failure) => {
                (0..self.held.len()).for_each(|index| self.flush(index));
                // Dropping the rest cancels the other sequences of the request.
                self.running = None;
                self.ready.extend([sse::event(&ApiError::from(failure).to_json()), sse::DONE]);
            }
        }
    }

    /// Sends the tokens that a sequence has held for one chunk, each a choice of its own.
    fn flush(&mut self, index: usize) {
        let choices = std::mem::take(&mut self.held[index]);
        if !choices.is_empty() {
            self.chunk(choices, Running::usage);
        }
    }

    fn chunk(&mut self, choices: Vec<Value>, usage: fn(&Running) -> Usage) {
        let continuous = self.running.as_ref().filter(|_| self.options.continuous_usage);
        let usage = continuous.map(usage);
        self.ready.push_back(sse::event(&Body { head: &self.head, choices, usage, prompt_logprobs: None }));
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take()
            && self.options.include_usage
        {
            let (choices, usage) = (Vec::<Value>::new(), Some(running.usage()));
            let body = Body { head: &self.head, choices, usage, prompt_logprobs: None };
            self.ready.push_back(sse::event(&body));
        }
        self.ready.push_back(sse::DONE);
    }
}

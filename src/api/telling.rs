//! How a request with one sequence is followed in the dialects that tell a message by its blocks.

use std::{collections::VecDeque, time::Duration};

use actix_web::{HttpResponse, web::Bytes};
use futures_util::{Stream, stream};
use serde_json::Value;

use super::{
    blocks::{Change, Message},
    choice::{Piece, Update},
    error::ApiError,
    running::{Running, Usage},
    sse,
};

/// A stream that is silent for so long says that it still lives, where its dialect has words for that.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How a dialect words one answer. What it gives are server-sent events, ready to be sent.
pub trait Telling: 'static {
    /// It is being computed.
    fn begin(&mut self, usage: Usage) -> Vec<Bytes>;

    /// One more token, before what it changed is told.
    fn piece(&mut self, _piece: &Piece, _message: &Message) {}

    /// The message grew.
    fn change(&mut self, change: &Change, message: &Message) -> Vec<Bytes>;

    /// It is complete.
    fn end(&mut self, message: &Message, usage: Usage) -> Vec<Bytes>;

    /// It will never be.
    fn fail(&mut self, error: &ApiError, message: &Message, usage: Usage) -> Vec<Bytes>;

    /// Nothing happened for a while.
    fn silence(&self) -> Option<Bytes> {
        None
    }

    /// All of it at once.
    fn whole(&mut self, message: &Message, usage: Usage) -> Value;
}

/// Follows the request to its end.
pub async fn whole(mut running: Running, mut telling: impl Telling) -> Result<HttpResponse, ApiError> {
    let mut message = Message::default();
    while let Some((_, update)) = running.next().await {
        match update {
            // The events aren't sent.
            Update::Piece(piece) => drop(take(&mut telling, &mut message, &piece)),
            Update::Failed(failure) => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(HttpResponse::Ok().json(telling.whole(&message, running.usage())))
}

/// Answers event by event. What fails before it has started still gets a status of its own.
pub async fn streamed(running: Running, telling: impl Telling) -> Result<HttpResponse, ApiError> {
    Ok(sse::respond(Told::start(running, telling).await?.into_stream()))
}

/// An answer on its way.
pub struct Told<T> {
    /// None once the last event is ready.
    running: Option<Running>,
    begun: bool,
    telling: T,
    message: Message,
    ready: VecDeque<Bytes>,
}

impl<T: Telling> Told<T> {
    /// Nothing is told yet.
    pub fn new(running: Running, telling: T) -> Self {
        Self { running: Some(running), begun: false, telling, message: Message::default(), ready: VecDeque::new() }
    }

    /// Waits for the first sign of it, which may be that it fails.
    async fn start(mut running: Running, telling: T) -> Result<Self, ApiError> {
        let first = running.next().await;
        let mut told = Self::new(running, telling);
        match first {
            Some((_, Update::Failed(failure))) => return Err(failure.into()),
            Some((_, update)) => told.tell(update),
            None => {}
        }
        Ok(told)
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match tokio::time::timeout(SILENCE_MAX, self.running.as_mut()?.next()).await {
                Ok(Some((_, update))) => self.tell(update),
                Ok(None) => self.end(),
                Err(_) => self.ready.extend(self.telling.silence()),
            }
        }
    }

    fn into_stream(self) -> impl Stream<Item = Bytes> {
        stream::unfold(self, |mut told| async { Some((told.next().await?, told)) })
    }

    fn tell(&mut self, update: Update) {
        if !std::mem::replace(&mut self.begun, true) {
            let usage = self.running.as_ref().map(Running::usage).unwrap_or_default();
            self.ready.extend(self.telling.begin(usage));
        }
        match update {
            Update::Piece(piece) => self.ready.extend(take(&mut self.telling, &mut self.message, &piece)),
            Update::Failed(failure) => {
                let usage = self.running.take().map(|running| running.usage()).unwrap_or_default();
                self.ready.extend(self.telling.fail(&failure.into(), &self.message, usage));
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            self.ready.extend(self.telling.end(&self.message, running.usage()));
        }
    }
}

/// What one more piece does to the message, told.
fn take(telling: &mut impl Telling, message: &mut Message, piece: &Piece) -> Vec<Bytes> {
    let changes = message.take(piece);
    telling.piece(piece, message);
    changes.iter().flat_map(|change| telling.change(change, message)).collect()
}

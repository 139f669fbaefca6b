//! Responses that go on without anybody waiting for them.

use actix_web::{HttpResponse, rt};
use futures_util::stream;
use tokio::sync::mpsc;

use super::answer::Answer;
use crate::api::{running::Running, sse, telling::Told};

/// Answers at once, with the response as it is now or with its events to come. It is stored when it ends, and ends too if
/// it is cancelled or deleted.
pub fn start(running: Running, answer: Answer, streamed: bool) -> HttpResponse {
    let begun = answer.begun();
    let api = answer.api().clone();
    // As many events as the answer has tokens at most; a client that reads slowly holds nothing up.
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut told = Told::new(running, answer);
    let task = rt::spawn(async move {
        while let Some(event) = told.next().await {
            // Nobody needs to listen.
            let _ = sender.send(event);
        }
    });
    let response = begun.response.clone();
    api.responses.begin(begun, task.abort_handle());
    if streamed {
        let events = |mut receiver: mpsc::UnboundedReceiver<_>| async { Some((receiver.recv().await?, receiver)) };
        return sse::respond(stream::unfold(receiver, events));
    }
    HttpResponse::Ok().json(response)
}

//! How a chat is answered: the choices of a whole answer and of its chunks.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::{
    super::{
        Api,
        answer::{Collected, Head, Wording},
        choice::{FinishReason, Piece},
        logprobs::{self, ChatLogprobs, TokenNames},
        prompt_scores::PromptScores,
    },
    message::{Delta, Message, deltas},
};

/// How a chat is answered.
pub struct Chat {
    pub(super) api: Arc<Api>,
    pub(super) id: String,
    pub(super) created: u64,
    /// Where they are wanted.
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) names: TokenNames,
    pub(super) scores: PromptScores,
}

/// A sequence of a whole answer.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatChoice)]
pub struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
    prompt_logprobs: Option<Value>,
}

/// A step of a sequence.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = ChatChunkChoice)]
pub struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

impl Wording for Chat {
    fn head(&self, streamed: bool) -> Head {
        let object = if streamed { "chat.completion.chunk" } else { "chat.completion" };
        Head { id: self.id.clone(), object, created: self.created, model: self.api.model.name.clone() }
    }

    fn scores(&mut self, sequence: usize, scores: Vec<Logprobs>) {
        self.scores.take(sequence, scores);
    }

    fn prompt_logprobs(&self) -> Option<Value> {
        self.scores.told(0, &self.names)
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let delta = Delta::opening(self.prompt_token_ids.clone());
        let prompt_logprobs = self.scores.told(index, &self.names);
        Some(json!(ChunkChoice { index, delta, prompt_logprobs, ..ChunkChoice::default() }))
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<Value> {
        let mut deltas = deltas(&piece.parts);
        // The token's own facts are told once, with the first; that it was the last, with the last.
        let ids = self.prompt_token_ids.is_some().then_some([piece.token]);
        (deltas[0].completion_token_ids, deltas[0].token_ids) = (ids, ids);
        let mut logprobs = logprobs::of_chat(std::slice::from_ref(piece), &self.names);
        let count = deltas.len();
        let choice = |(place, delta)| {
            let finish_reason = piece.finish.filter(|_| place + 1 == count);
            let (logprobs, arrival_time) = (logprobs.take(), Some(piece.arrival_time));
            json!(ChunkChoice { index, delta, logprobs, finish_reason, arrival_time, prompt_logprobs: None })
        };
        deltas.into_iter().enumerate().map(choice).collect()
    }

    fn whole(&mut self, index: usize, collected: Collected) -> Value {
        let Collected { pieces, finish, .. } = collected;
        let mut message = Message::of(pieces.iter().flat_map(|piece| &piece.parts));
        message.prompt_token_ids = self.prompt_token_ids.clone();
        let wanted = self.prompt_token_ids.is_some();
        message.completion_token_ids = wanted.then(|| pieces.iter().map(|piece| piece.token).collect());
        let logprobs = logprobs::of_chat(&pieces, &self.names);
        let prompt_logprobs = self.scores.told(index, &self.names);
        json!(WholeChoice { index, message, logprobs, finish_reason: finish, prompt_logprobs })
    }
}

//! How a chat is answered: the message, whole or by its deltas.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use workers::link::report::Logprobs;

use super::super::{
    Api,
    answer::{Collected, Head, Wording},
    choice::{FinishReason, Piece},
    logprobs::{self, ChatLogprobs, TokenNames},
    prompt_scores::PromptScores,
};
use crate::text::Part;

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

/// What the assistant said.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatAnswer)]
struct Message {
    role: &'static str,
    /// None where there are only calls.
    content: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    prompt_token_ids: Option<Vec<u32>>,
    completion_token_ids: Option<Vec<u32>>,
}

/// A call, or in deltas more of one: what is told once is told with its beginning.
#[derive(Debug, Serialize, ToSchema)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

/// The function that is called.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = CalledFunction)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
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

/// What is new of a message.
#[derive(Debug, Serialize, Default, ToSchema)]
#[schema(as = ChatDelta)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_token_ids: Option<[u32; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<[u32; 1]>,
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
        let delta = Delta {
            role: Some("assistant"),
            content: Some(String::new()),
            reasoning_content: Some(String::new()),
            prompt_token_ids: self.prompt_token_ids.clone(),
            ..Delta::default()
        };
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

impl Message {
    fn of<'p>(parts: impl Iterator<Item = &'p Part>) -> Self {
        let (mut content, mut reasoning, mut calls) = (String::new(), None::<String>, Vec::new());
        for part in parts {
            match part {
                Part::Content(text) => content.push_str(text),
                Part::Reasoning(text) => reasoning.get_or_insert_default().push_str(text),
                call => extend(&mut calls, call),
            }
        }
        calls.iter_mut().for_each(|call| call.index = None);
        Self {
            role: "assistant",
            content: (!content.is_empty() || calls.is_empty()).then_some(content),
            reasoning_content: reasoning,
            tool_calls: (!calls.is_empty()).then_some(calls),
            prompt_token_ids: None,
            completion_token_ids: None,
        }
    }
}

/// A delta for each kind of part, so that none has both reasoning and content; an empty one where there is no part.
fn deltas(parts: &[Part]) -> Vec<Delta> {
    let mut deltas: Vec<Delta> = Vec::new();
    for part in parts {
        match (part, deltas.last_mut()) {
            (Part::Content(text), _) => deltas.push(Delta { content: Some(text.clone()), ..Delta::default() }),
            (Part::Reasoning(text), _) => {
                deltas.push(Delta { reasoning_content: Some(text.clone()), ..Delta::default() });
            }
            (call, Some(Delta { tool_calls, .. })) if !tool_calls.is_empty() => extend(tool_calls, call),
            (call, _) => {
                let mut delta = Delta::default();
                extend(&mut delta.tool_calls, call);
                deltas.push(delta);
            }
        }
    }
    if deltas.is_empty() {
        deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
    }
    deltas
}

/// Adds a call's beginning or more of its arguments to a list of calls.
fn extend(calls: &mut Vec<ToolCall>, part: &Part) {
    match part {
        Part::Call { index, name } => {
            let function = Function { name: Some(name.clone()), arguments: String::new() };
            calls.push(ToolCall { index: Some(*index), id: Some(call_id()), kind: Some("function"), function });
        }
        Part::Arguments { index, text } => match calls.last_mut() {
            Some(call) if call.index == Some(*index) => call.function.arguments.push_str(text),
            _ => {
                let function = Function { name: None, arguments: text.clone() };
                calls.push(ToolCall { index: Some(*index), id: None, kind: None, function });
            }
        },
        Part::Content(_) | Part::Reasoning(_) => {}
    }
}

fn call_id() -> String {
    format!("chatcmpl-tool-{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Part {
        Part::Content(text.into())
    }

    fn arguments(index: usize, text: &str) -> Part {
        Part::Arguments { index, text: text.into() }
    }

    fn call(index: usize, name: &str) -> Part {
        Part::Call { index, name: name.into() }
    }

    #[test]
    fn deltas_hold_one_kind_of_part_each() {
        let parts = [
            Part::Reasoning("a".into()),
            content("b"),
            arguments(0, "}"),
            call(1, "f"),
            arguments(1, "{"),
            call(2, "g"),
        ];
        let mut found = json!(deltas(&parts));
        for call in found[2]["tool_calls"].as_array_mut().unwrap() {
            if let Some(id) = call.as_object_mut().unwrap().remove("id") {
                assert!(id.as_str().is_some_and(|id| id.starts_with("chatcmpl-tool-") && id.len() == 46));
            }
        }
        let expected = json!([
            {"reasoning_content": "a"},
            {"content": "b"},
            {"tool_calls": [
                {"index": 0, "function": {"arguments": "}"}},
                {"index": 1, "type": "function", "function": {"name": "f", "arguments": "{"}},
                {"index": 2, "type": "function", "function": {"name": "g", "arguments": ""}},
            ]},
        ]);
        assert_eq!(found, expected);
        assert_eq!(json!(deltas(&[])), json!([{"content": ""}]));
    }

    #[test]
    fn a_message_of_calls_alone_has_no_content() {
        let told = |parts: &[Part]| json!(Message::of(parts.iter()));
        let message = told(&[call(0, "f"), arguments(0, "{"), arguments(0, "}")]);
        assert_eq!(message["content"], Value::Null);
        assert_eq!(message["tool_calls"][0]["function"], json!({"name": "f", "arguments": "{}"}));
        assert!(message["tool_calls"][0].get("index").is_none());
        assert_eq!(told(&[])["content"], "");
        assert_eq!(told(&[Part::Reasoning("a".into())])["reasoning_content"], "a");
    }
}

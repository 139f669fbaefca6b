//! A message in Anthropic's form, whole or event by event.

use actix_web::web::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::error;
use crate::api::{
    blocks::{Block, Change, Kind, Message},
    choice::FinishReason,
    error::ApiError,
    running::Usage,
    sse::named,
    telling::Telling,
};

/// How a conversation is answered.
pub struct Answer {
    id: String,
    model: String,
}

impl Answer {
    /// The answer of this id by the model of this name.
    pub fn new(id: String, model: String) -> Self {
        Self { id, model }
    }

    fn message(&self, content: Value, usage: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage_of(usage),
        })
    }
}

impl Telling for Answer {
    fn begin(&mut self, usage: Usage) -> Vec<Bytes> {
        vec![named("message_start", json!({"message": self.message(json!([]), usage)})), ping()]
    }

    fn change(&mut self, change: &Change, message: &Message) -> Vec<Bytes> {
        let delta = |index: usize, delta| named("content_block_delta", json!({"index": index, "delta": delta}));
        match change {
            Change::Opened(index) => {
                let block = begun(&message.blocks[*index]);
                vec![named("content_block_start", json!({"index": index, "content_block": block}))]
            }
            Change::Grown(index, text) => vec![delta(*index, grown(&message.blocks[*index].kind, text))],
            Change::Closed(index) => {
                let block = &message.blocks[*index];
                let signed = (block.kind == Kind::Reasoning)
                    .then(|| delta(*index, json!({"type": "signature_delta", "signature": signature(&block.text)})));
                let stop = named("content_block_stop", json!({"index": index}));
                signed.into_iter().chain([stop]).collect()
            }
        }
    }

    fn end(&mut self, message: &Message, usage: Usage) -> Vec<Bytes> {
        let (reason, stop) = stop(message);
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let last = named("message_delta", json!({"delta": delta, "usage": usage_of(usage)}));
        vec![last, named("message_stop", json!({}))]
    }

    fn fail(&mut self, error: &ApiError, _message: &Message, _usage: Usage) -> Vec<Bytes> {
        vec![named("error", error::body(error, None))]
    }

    fn silence(&self) -> Option<Bytes> {
        Some(ping())
    }

    fn whole(&mut self, message: &Message, usage: Usage) -> Value {
        let mut whole = self.message(message.blocks.iter().map(complete).collect(), usage);
        let (reason, stop) = stop(message);
        whole["stop_reason"] = reason.into();
        whole["stop_sequence"] = stop;
        whole
    }
}

fn ping() -> Bytes {
    named("ping", json!({}))
}

/// Cached tokens are not counted among the others, as Anthropic does.
fn usage_of(usage: Usage) -> Value {
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}

/// Why it ended, and by which string, if by one.
fn stop(message: &Message) -> (&'static str, Value) {
    match (&message.stop_string, message.finish) {
        (Some(string), _) => ("stop_sequence", string.as_ref().into()),
        (None, Some(FinishReason::Length)) => ("max_tokens", Value::Null),
        _ if message.calls() => ("tool_use", Value::Null),
        _ => ("end_turn", Value::Null),
    }
}

fn begun(block: &Block) -> Value {
    match &block.kind {
        Kind::Reasoning => json!({"type": "thinking", "thinking": "", "signature": ""}),
        Kind::Text => json!({"type": "text", "text": ""}),
        Kind::Call(name) => call(block, name, json!({})),
    }
}

fn grown(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Reasoning => json!({"type": "thinking_delta", "thinking": text}),
        Kind::Text => json!({"type": "text_delta", "text": text}),
        Kind::Call(_) => json!({"type": "input_json_delta", "partial_json": text}),
    }
}

fn complete(block: &Block) -> Value {
    match &block.kind {
        Kind::Reasoning => {
            json!({"type": "thinking", "thinking": block.text, "signature": signature(&block.text)})
        }
        Kind::Text => json!({"type": "text", "text": block.text}),
        Kind::Call(name) => call(block, name, input(&block.text)),
    }
}

fn call(block: &Block, name: &str, input: Value) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{}", block.key), "name": name, "input": input})
}

/// `input` must be an object; arguments that aren't one, because they were cut off for instance, are shown as they are.
fn input(arguments: &str) -> Value {
    let none = arguments.trim().is_empty();
    let parsed = serde_json::from_str::<Map<String, Value>>(if none { "{}" } else { arguments });
    parsed.map_or_else(|_| json!({"INVALID_JSON": arguments}), Value::Object)
}

/// Clients send thinking back only if it is signed. Nobody checks it here: who talks to this server may say what it
/// thought.
fn signature(thinking: &str) -> String {
    Sha256::digest(thinking).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_an_object_or_shown_as_they_are() {
        for (text, expected) in [
            ("{\"a\": 1}", json!({"a": 1})),
            ("", json!({})),
            ("{\"a\": ", json!({"INVALID_JSON": "{\"a\": "})),
            ("[1]", json!({"INVALID_JSON": "[1]"})),
        ] {
            assert_eq!(input(text), expected, "{text}");
        }
    }

    #[test]
    fn the_reason_to_stop_is_told() {
        let block = |kind| Block { kind, text: String::new(), key: String::new() };
        for (kind, finish, string, expected) in [
            (Kind::Text, FinishReason::Stop, None, ("end_turn", Value::Null)),
            (Kind::Text, FinishReason::Length, None, ("max_tokens", Value::Null)),
            (Kind::Text, FinishReason::Stop, Some("x"), ("stop_sequence", json!("x"))),
            (Kind::Call("f".into()), FinishReason::Stop, None, ("tool_use", Value::Null)),
            (Kind::Call("f".into()), FinishReason::Length, None, ("max_tokens", Value::Null)),
        ] {
            let mut message = Message::default();
            message.blocks = vec![block(kind)];
            (message.finish, message.stop_string) = (Some(finish), string.map(Into::into));
            assert_eq!(stop(&message), expected);
        }
    }
}

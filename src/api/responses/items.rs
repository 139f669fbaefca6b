//! Blocks of a message as items of a response.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::input;
use crate::api::{
    blocks::{Block, Kind, Message},
    choice::FinishReason,
};

/// How far an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It can still grow.
    InProgress,
    /// It is whole.
    Completed,
    /// It was cut off.
    Incomplete,
}

impl Status {
    /// That of a block that is closed.
    pub fn of_closed(index: usize, message: &Message) -> Self {
        let cut = message.finish == Some(FinishReason::Length) && index + 1 == message.blocks.len();
        if cut { Self::Incomplete } else { Self::Completed }
    }

    fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
        }
    }
}

/// The id of a block's item.
pub fn id(block: &Block) -> String {
    let prefix = match block.kind {
        Kind::Reasoning => "rs",
        Kind::Text => "msg",
        Kind::Call(_) => "fc",
    };
    format!("{prefix}_{}", block.key)
}

/// An item as it is added, before it has any content.
pub fn begun(block: &Block) -> Value {
    item(block, Status::InProgress, json!([]), "")
}

/// An item with all of its content. `logprobs` is that of a text; `sealed`: reasoning goes with a form of it that clients
/// send back unread.
pub fn complete(block: &Block, status: Status, logprobs: &Value, sealed: bool) -> Value {
    let mut item = item(block, status, json!([part(block, &block.text, logprobs)]), &block.text);
    if sealed && block.kind == Kind::Reasoning {
        item["encrypted_content"] = input::seal(&block.text).into();
    }
    item
}

/// Tells a call by the names that its client gave the tool.
pub fn name_call(item: &mut Value, namespaces: &HashMap<String, (String, String)>) {
    let names = item["name"].as_str().and_then(|flat| namespaces.get(flat));
    if let Some((namespace, name)) = names {
        item["namespace"] = namespace.as_str().into();
        item["name"] = name.as_str().into();
    }
}

/// The only part of a text's or reasoning's content.
pub fn part(block: &Block, text: &str, logprobs: &Value) -> Value {
    match block.kind {
        Kind::Reasoning => json!({"type": "reasoning_text", "text": text}),
        _ => json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}),
    }
}

fn item(block: &Block, status: Status, content: Value, arguments: &str) -> Value {
    let (id, status) = (id(block), status.word());
    match &block.kind {
        Kind::Reasoning => {
            json!({"id": id, "type": "reasoning", "summary": [], "content": content, "status": status})
        }
        Kind::Text => {
            json!({"id": id, "type": "message", "role": "assistant", "content": content, "status": status})
        }
        Kind::Call(name) => json!({
            "id": id,
            "type": "function_call",
            "call_id": format!("call_{}", block.key),
            "name": name,
            "arguments": arguments,
            "status": status,
        }),
    }
}

//! What the assistant said, and what is new of it: parts in the form of chats.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{api::request_id, text::Part};

/// What the assistant said.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatAnswer)]
pub struct Message {
    role: &'static str,
    /// None where there are only calls.
    content: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolCall>>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) completion_token_ids: Option<Vec<u32>>,
}

/// What is new of a message.
#[derive(Debug, Serialize, Default, ToSchema)]
#[schema(as = ChatDelta)]
pub struct Delta {
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
    pub(super) completion_token_ids: Option<[u32; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<[u32; 1]>,
}

/// A call, or in deltas more of one: what is told once is told with its beginning.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCall {
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

impl Message {
    /// That of all these parts.
    pub fn of<'p>(parts: impl Iterator<Item = &'p Part>) -> Self {
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

impl Delta {
    /// What stands before the first token.
    pub fn opening(prompt_token_ids: Option<Vec<u32>>) -> Self {
        Self {
            role: Some("assistant"),
            content: Some(String::new()),
            reasoning_content: Some(String::new()),
            prompt_token_ids,
            ..Self::default()
        }
    }
}

/// A delta for each kind of part, so that none has both reasoning and content; an empty one where there is no part.
pub fn deltas(parts: &[Part]) -> Vec<Delta> {
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
    request_id::make("chatcmpl-tool-", None, None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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

//! `system` and `messages`: blocks in, a chat's messages out.

use serde_json::Value;

use crate::api::{
    conversation::{Call, Conversation},
    error::ApiError,
    fields::Fields,
};

/// Claude Code begins its system prompt with a line that is another one in every request. Nobody reads it here, and with
/// it no request would find the prefix of the one before in the cache.
const BILLING_LINE: &str = "x-anthropic-billing-header:";

/// Where a fault is, and what it is.
type Fault = String;

/// The conversation that a request tells.
pub fn conversation(given: &Fields) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation::default();
    if let Some(system) = given.raw("system") {
        let texts = texts(system).map_err(|fault| ApiError::invalid("system", format!("system{fault}")))?;
        texts.into_iter().filter(|text| !text.starts_with(BILLING_LINE)).for_each(|text| conversation.system(text));
    }
    let messages = given.raw("messages").ok_or_else(|| ApiError::missing("messages"))?;
    let messages = messages.as_array().filter(|list| !list.is_empty());
    let messages =
        messages.ok_or_else(|| ApiError::invalid("messages", "`messages` must be a list of at least one message"))?;
    for (index, message) in messages.iter().enumerate() {
        add(message, &mut conversation)
            .map_err(|fault| ApiError::invalid("messages", format!("messages[{index}]{fault}")))?;
    }
    Ok(conversation)
}

fn add(message: &Value, conversation: &mut Conversation) -> Result<(), Fault> {
    let content = message.get("content").ok_or(": must be an object with `role` and `content`")?;
    match message.get("role").and_then(Value::as_str) {
        Some("user") => user(content, conversation),
        Some("assistant") => each(content, |block| assistant(block, conversation)),
        Some("system") => {
            texts(content).map_err(inside)?.into_iter().for_each(|text| conversation.system(text));
            Ok(())
        }
        _ => Err(": `role` must be `user`, `assistant` or `system`".into()),
    }
}

/// Results come before what is said to them: a template wants them right behind their calls.
fn user(content: &Value, conversation: &mut Conversation) -> Result<(), Fault> {
    let mut said = Vec::new();
    each(content, |block| {
        match block {
            Block::Text(text) => said.push(text.to_owned()),
            Block::Other("tool_result", fields) => result(fields, conversation)?,
            Block::Other(kind, _) => return Err(unsupported(kind)),
        }
        Ok(())
    })?;
    said.iter().for_each(|text| conversation.user(text));
    Ok(())
}

fn result(fields: &Value, conversation: &mut Conversation) -> Result<(), Fault> {
    let id = text(fields, "tool_use_id")?;
    let texts = fields.get("content").filter(|content| !content.is_null()).map_or(Ok(Vec::new()), texts);
    let mut told = texts.map_err(inside)?.join("\n");
    if fields.get("is_error") == Some(&Value::Bool(true)) {
        // Chats have no other place for it.
        told.insert_str(0, "Error: ");
    }
    conversation.result(id, &told);
    Ok(())
}

fn assistant(block: Block<'_>, conversation: &mut Conversation) -> Result<(), Fault> {
    match block {
        Block::Text(text) => conversation.assistant(text),
        Block::Other("thinking", fields) => conversation.reasoning(text(fields, "thinking")?),
        // Nobody but its makers can read it.
        Block::Other("redacted_thinking", _) => {}
        Block::Other("tool_use", fields) => {
            let (id, name) = (text(fields, "id")?, text(fields, "name")?);
            let input = fields.get("input").filter(|input| input.is_object());
            let arguments = input.ok_or(": a tool_use block needs `input`, an object")?.to_string();
            conversation.call(Call { id, name, arguments });
        }
        Block::Other(kind, _) => return Err(unsupported(kind)),
    }
    Ok(())
}

/// One block of a message.
enum Block<'a> {
    Text(&'a str),
    /// Its type and its fields.
    Other(&'a str, &'a Value),
}

/// A string is the same as one block of text.
fn each<'a>(content: &'a Value, mut act: impl FnMut(Block<'a>) -> Result<(), Fault>) -> Result<(), Fault> {
    match content {
        Value::String(text) => act(Block::Text(text)),
        Value::Array(blocks) => {
            for (index, block) in blocks.iter().enumerate() {
                let fault = |fault| format!(".content[{index}]{fault}");
                let block = match block.get("type").and_then(Value::as_str) {
                    Some("text") => Block::Text(text(block, "text").map_err(fault)?),
                    Some(kind) => Block::Other(kind, block),
                    None => return Err(fault(": a block needs a `type`, for instance `text`".into())),
                };
                act(block).map_err(fault)?;
            }
            Ok(())
        }
        _ => Err(": `content` must be a string or a list of blocks".into()),
    }
}

/// A string, or blocks of text only.
fn texts(value: &Value) -> Result<Vec<&str>, Fault> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(blocks) => {
            let text = |(index, block)| text_only(block).map_err(|fault| format!("[{index}]{fault}"));
            blocks.iter().enumerate().map(text).collect()
        }
        _ => Err(": must be a string or a list of text blocks".into()),
    }
}

fn text_only(block: &Value) -> Result<&str, Fault> {
    match block.get("type").and_then(Value::as_str) {
        Some("text") => text(block, "text"),
        Some(kind) => Err(unsupported(kind)),
        None => Err(": a block needs a `type`, for instance `text`".into()),
    }
}

fn text<'a>(block: &'a Value, name: &str) -> Result<&'a str, Fault> {
    block.get(name).and_then(Value::as_str).ok_or_else(|| format!(": the block needs `{name}`, a string"))
}

fn inside(fault: Fault) -> Fault {
    format!(".content{fault}")
}

fn unsupported(kind: &str) -> Fault {
    let kind: String = kind.chars().take(64).collect();
    format!(": blocks of type `{kind}` are not supported here, this model reads text only")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(system: Value, messages: Value) -> Result<Value, ApiError> {
        let body = json!({"system": system, "messages": messages}).to_string();
        conversation(&Fields::read(body.as_bytes()).unwrap()).map(Conversation::into_messages)
    }

    fn check(messages: Value, expected: Value) {
        assert_eq!(read(Value::Null, messages).unwrap(), expected);
    }

    #[test]
    fn a_system_prompt_is_a_string_or_blocks() {
        let hi = json!([{"role": "user", "content": "Hi"}]);
        let billing = json!({"type": "text", "text": "x-anthropic-billing-header: cch=1;"});
        let brief = json!({"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}});
        for system in [json!("Be brief."), json!([brief]), json!([billing, brief])] {
            assert_eq!(read(system, hi.clone()).unwrap()[0], json!({"role": "system", "content": "Be brief."}));
        }
    }

    #[test]
    fn results_stand_right_behind_their_calls() {
        let call = json!({"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}});
        let thought = json!({"type": "thinking", "thinking": "Hm.", "signature": "s"});
        let result = json!({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "no"}], "is_error": true});
        let told = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}});
        check(
            json!([
                {"role": "assistant", "content": [thought, {"type": "text", "text": "Wait."}, call]},
                {"role": "user", "content": [{"type": "text", "text": "Go on."}, result]},
            ]),
            json!([
                {"role": "assistant", "content": "Wait.", "reasoning_content": "Hm.", "tool_calls": [told]},
                {"role": "tool", "content": "Error: no", "tool_call_id": "a", "name": "f"},
                {"role": "user", "content": "Go on."},
            ]),
        );
    }

    #[test]
    fn faults_name_their_place() {
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let assistant = |block: Value| json!([{"role": "assistant", "content": [block]}]);
        for (messages, told) in [
            (json!("Hi"), "`messages` must be a list"),
            (json!([]), "at least one"),
            (json!([3]), "messages[0]: must be an object"),
            (json!([{"role": "tool", "content": "a"}]), "messages[0]: `role`"),
            (user(json!(3)), "messages[0]: `content`"),
            (user(json!(["a"])), "messages[0].content[0]: a block needs a `type`"),
            (user(json!([{"type": "image", "source": {}}])), "messages[0].content[0]: blocks of type `image`"),
            (user(json!([{"type": "text"}])), "messages[0].content[0]: the block needs `text`"),
            (user(json!([{"type": "tool_result"}])), "the block needs `tool_use_id`"),
            (
                user(json!([{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}])),
                "messages[0].content[0].content[0]: blocks of type `image`",
            ),
            (assistant(json!({"type": "tool_use", "id": "a", "name": "f", "input": "x"})), "needs `input`"),
            (assistant(json!({"type": "server_tool_use"})), "blocks of type `server_tool_use`"),
        ] {
            let error = read(Value::Null, messages).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        let error = read(json!([{"type": "image"}]), user(json!("Hi"))).unwrap_err().to_string();
        assert!(error.starts_with("system[0]: blocks of type `image`"), "{error}");
    }
}

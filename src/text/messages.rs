//! OpenAI's `messages`, checked and put into the form that the template reads.

use serde_json::{Map, Value};

use super::TextError;

/// How a template reads a message's `content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentStyle {
    /// Only as one string.
    Text,
    /// As a string or as a list of parts, which the template joins itself.
    Parts,
}

/// The messages as the template wants them: each an object with a role, content parts only text, and joined by a
/// newline where the template reads strings. `arguments` of tool calls, which OpenAI's protocol sends as JSON text,
/// become the object that templates write out.
pub fn for_template(messages: &Value, style: ContentStyle) -> Result<Value, TextError> {
    let Some(list) = messages.as_array() else {
        return Err(fault("`messages` must be a list of messages"));
    };
    let converted = list.iter().enumerate().map(|(index, message)| {
        convert(message, style).map_err(|reason| fault(&format!("messages[{index}]: {reason}")))
    });
    converted.collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// The messages with an empty text where an assistant's has none beside its calls: some templates can't do without. None
/// where no message lacks one.
pub fn with_empty_contents(messages: &Value) -> Option<Value> {
    let mut messages = messages.clone();
    let mut filled = false;
    for message in messages.as_array_mut()?.iter_mut().filter_map(Value::as_object_mut) {
        let is_assistant = message.get("role").is_some_and(|role| role == "assistant");
        if is_assistant && message.get("content").is_none_or(Value::is_null) {
            message.insert("content".into(), "".into());
            filled = true;
        }
    }
    filled.then_some(messages)
}

fn convert(message: &Value, style: ContentStyle) -> Result<Value, String> {
    let Some(fields) = message.as_object() else {
        return Err("must be an object with `role` and `content`".into());
    };
    if !fields.get("role").is_some_and(Value::is_string) {
        return Err("`role` must be given, as a string".into());
    }
    let mut fields = fields.clone();
    if let Some(content) = fields.get_mut("content") {
        convert_content(content, style)?;
    }
    // Some servers call it so; templates don't.
    if let Some(reasoning) = fields.get("reasoning").filter(|_| !fields.contains_key("reasoning_content")) {
        let reasoning = reasoning.clone();
        fields.insert("reasoning_content".into(), reasoning);
    }
    if let Some(calls) = fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(parse_arguments);
    }
    Ok(Value::Object(fields))
}

fn convert_content(content: &mut Value, style: ContentStyle) -> Result<(), String> {
    match content {
        Value::String(_) | Value::Null => Ok(()),
        Value::Array(parts) => {
            let texts = parts.iter().map(text_of_part).collect::<Result<Vec<_>, _>>()?;
            if style == ContentStyle::Text {
                *content = Value::String(texts.join("\n"));
            }
            Ok(())
        }
        _ => Err("`content` must be a string or a list of parts".into()),
    }
}

fn text_of_part(part: &Value) -> Result<&str, String> {
    if let Some(text) = part.as_str() {
        return Ok(text);
    }
    match part.get("type").and_then(Value::as_str) {
        Some("text") => part.get("text").and_then(Value::as_str).ok_or("a text part needs `text`, a string".into()),
        Some(kind) => Err(format!("content parts of type `{kind}` are not supported, this model reads text only")),
        None => Err("a content part needs a `type`, for instance {\"type\": \"text\", \"text\": \"...\"}".into()),
    }
}

/// Arguments that aren't the JSON of an object stay the text they are.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
        return;
    };
    let object = |text: &str| match text.trim() {
        "" => Some(Map::new()),
        text => serde_json::from_str::<Map<String, Value>>(text).ok(),
    };
    if let Some(parsed) = arguments.as_str().and_then(object) {
        *arguments = Value::Object(parsed);
    }
}

fn fault(message: &str) -> TextError {
    TextError::Messages { message: message.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_joined_only_for_templates_that_read_strings() {
        let messages =
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
        let joined = for_template(&messages, ContentStyle::Text).unwrap();
        assert_eq!(joined, json!([{"role": "user", "content": "a\nb"}]));
        assert_eq!(for_template(&messages, ContentStyle::Parts).unwrap(), messages);
    }

    #[test]
    fn tool_call_arguments_become_objects() {
        let call = |arguments: Value| json!([{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
        assert_eq!(for_template(&call(json!("{\"a\": 1}")), ContentStyle::Text).unwrap(), call(json!({"a": 1})));
        assert_eq!(for_template(&call(json!("")), ContentStyle::Text).unwrap(), call(json!({})));
        assert_eq!(for_template(&call(json!("not json")), ContentStyle::Text).unwrap(), call(json!("not json")));
    }

    #[test]
    fn faults_name_the_message() {
        for (messages, told) in [
            (json!("hi"), "`messages` must be a list"),
            (json!([{"role": "user", "content": "a"}, 3]), "messages[1]: must be an object"),
            (json!([{"content": "a"}]), "messages[0]: `role`"),
            (json!([{"role": "user", "content": 5}]), "messages[0]: `content` must be"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "type `image_url` are not supported"),
            (json!([{"role": "user", "content": [{"type": "text"}]}]), "a text part needs `text`"),
        ] {
            let error = for_template(&messages, ContentStyle::Parts).unwrap_err();
            assert!(error.to_string().contains(told) && error.is_client_fault(), "{error}");
        }
    }
}

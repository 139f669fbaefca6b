//! `tools` and `tool_choice`.

use serde_json::{Map, Value, json};

use crate::api::{error::ApiError, fields::Fields};

/// Puts them into the words of chats.
pub fn to_chat(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    if let Some(tools) = given.get::<Vec<Value>>("tools")? {
        let tools = tools.iter().enumerate().map(|(index, tool)| {
            function(tool).map_err(|fault| ApiError::invalid("tools", format!("tools[{index}]: {fault}")))
        });
        chat.insert("tools".into(), tools.collect::<Result<Value, _>>()?);
    }
    if let Some(choice) = given.raw("tool_choice") {
        chat.insert("tool_choice".into(), choose(choice)?);
        if choice.get("disable_parallel_tool_use") == Some(&Value::Bool(true)) {
            chat.insert("parallel_tool_calls".into(), false.into());
        }
    }
    Ok(())
}

/// Tools without a schema are Anthropic's own: run by its servers, or known to its models by heart.
fn function(tool: &Value) -> Result<Value, String> {
    if let Some(kind) = tool.get("type").and_then(Value::as_str).filter(|kind| *kind != "custom") {
        let kind: String = kind.chars().take(64).collect();
        return Err(format!("tools of type `{kind}` are not served here, only those with an `input_schema`"));
    }
    let name = tool.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("needs `name`, a string")?;
    let schema = tool.get("input_schema").filter(|schema| schema.is_object());
    let schema = schema.ok_or("needs `input_schema`, an object")?;
    let mut function = json!({"name": name, "parameters": schema});
    for same in ["description", "strict"] {
        if let Some(value) = tool.get(same).filter(|value| !value.is_null()) {
            function[same] = value.clone();
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn choose(choice: &Value) -> Result<Value, ApiError> {
    match (choice.get("type").and_then(Value::as_str), choice.get("name").and_then(Value::as_str)) {
        (Some(kind @ ("auto" | "none")), _) => Ok(kind.into()),
        (Some("any"), _) => Ok("required".into()),
        (Some("tool"), Some(name)) => Ok(json!({"type": "function", "function": {"name": name}})),
        (Some("tool"), None) => Err(ApiError::invalid("tool_choice", "`tool_choice` of type `tool` needs a `name`")),
        _ => {
            let message = "`tool_choice` must be an object whose `type` is `auto`, `any`, `tool` or `none`";
            Err(ApiError::invalid("tool_choice", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(fields: Value) -> Result<Value, ApiError> {
        let mut chat = Map::new();
        to_chat(&Fields::read(fields.to_string().as_bytes()).unwrap(), &mut chat).map(|()| chat.into())
    }

    #[test]
    fn tools_become_functions() {
        let tool = json!({"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}});
        let function = json!({"name": "f", "description": "d", "parameters": {"type": "object"}});
        let expected = json!({"tools": [{"type": "function", "function": function}]});
        assert_eq!(chat(json!({"tools": [tool]})).unwrap(), expected);
    }

    #[test]
    fn choices_have_other_names() {
        for (choice, expected) in [
            (json!({"type": "auto"}), json!({"tool_choice": "auto"})),
            (json!({"type": "any"}), json!({"tool_choice": "required"})),
            (json!({"type": "none"}), json!({"tool_choice": "none"})),
            (
                json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true}),
                json!({"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false}),
            ),
        ] {
            assert_eq!(chat(json!({"tool_choice": choice})).unwrap(), expected);
        }
    }

    #[test]
    fn faults_name_their_place() {
        for (fields, told) in [
            (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0]: tools of type `web"),
            (json!({"tools": [{"name": "f"}]}), "tools[0]: needs `input_schema`"),
            (json!({"tools": [{"input_schema": {}}]}), "tools[0]: needs `name`"),
            (json!({"tools": {}}), "`tools`"),
            (json!({"tool_choice": "auto"}), "`tool_choice` must be an object"),
            (json!({"tool_choice": {"type": "tool"}}), "needs a `name`"),
        ] {
            let error = chat(fields).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}

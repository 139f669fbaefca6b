//! `tools` and `tool_choice`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::api::{error::ApiError, fields::Fields};

/// The tools that this server can offer to the model: functions, and namespaces of functions. Those that OpenAI's servers
/// run themselves (web search, code interpreters …) are left out, not refused: agents name them in every request whether
/// they are needed or not. The response tells which are left.
pub fn served(given: &Fields) -> Result<Value, ApiError> {
    let tools: Vec<Value> = given.get("tools")?.unwrap_or_default();
    let mut served = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let named = tool.get("name").is_some_and(Value::is_string);
        match tool.get("type").and_then(Value::as_str) {
            Some("function" | "namespace") if named => served.push(tool),
            Some(kind @ ("function" | "namespace")) => {
                return Err(fault(format!("tools[{index}]: a {kind} needs `name`, a string")));
            }
            Some(_) => {}
            None => return Err(fault(format!("tools[{index}]: needs a `type`, for instance `function`"))),
        }
    }
    Ok(served.into())
}

/// The name in chats of a function in a namespace.
pub fn flat_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_owned(),
        Some(namespace) if namespace.ends_with('_') => format!("{namespace}{name}"),
        Some(namespace) => format!("{namespace}__{name}"),
    }
}

/// Of the functions in namespaces, by their names in chats: the namespace, and the name there.
pub fn namespaces(served: &Value) -> HashMap<String, (String, String)> {
    let mut names = HashMap::new();
    for (namespace, function) in within(served) {
        if let (Some(namespace), Some(name)) = (namespace, function["name"].as_str()) {
            names.insert(flat_name(Some(namespace), name), (namespace.to_owned(), name.to_owned()));
        }
    }
    names
}

/// All functions, each with its namespace.
fn within(served: &Value) -> impl Iterator<Item = (Option<&str>, &Value)> {
    list(served).iter().flat_map(|tool| match tool["type"] == "namespace" {
        true => {
            let functions = list(&tool["tools"]).iter().filter(|inner| inner["type"] == "function");
            functions.map(|inner| (tool["name"].as_str(), inner)).collect::<Vec<_>>()
        }
        false => vec![(None, tool)],
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fault(message: String) -> ApiError {
    ApiError::invalid("tools", message)
}

/// Puts them into the words of chats, which have a level more.
pub fn to_chat(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let served = served(given)?;
    let mut functions: Vec<Value> = within(&served).map(|(namespace, tool)| function(namespace, tool)).collect();
    if let Some(choice) = given.raw("tool_choice") {
        let choice = choose(choice, &mut functions)?;
        chat.insert("tool_choice".into(), choice);
    }
    if !functions.is_empty() {
        chat.insert("tools".into(), functions.into());
    }
    Ok(())
}

fn function(namespace: Option<&str>, tool: &Value) -> Value {
    let mut function = tool.clone();
    if let (Some(fields), Some(name)) = (function.as_object_mut(), tool["name"].as_str()) {
        fields.remove("type");
        fields.insert("name".into(), flat_name(namespace, name).into());
    }
    json!({"type": "function", "function": function})
}

/// A choice among some of the tools leaves the others out.
fn choose(choice: &Value, functions: &mut Vec<Value>) -> Result<Value, ApiError> {
    let invalid = |message: &str| Err(ApiError::invalid("tool_choice", message));
    let text = |name: &str| choice.get(name).and_then(Value::as_str);
    match (choice.as_str(), text("type"), text("name")) {
        (Some(word @ ("none" | "auto" | "required")), ..) => Ok(word.into()),
        (_, Some("function"), Some(name)) => Ok(json!({"type": "function", "function": {"name": name}})),
        (_, Some("allowed_tools"), _) => {
            let allowed = list(&choice["tools"]);
            functions.retain(|function| allowed.iter().any(|allowed| allowed["name"] == function["function"]["name"]));
            match text("mode") {
                Some(mode @ ("auto" | "required")) => Ok(mode.into()),
                _ => invalid("`tool_choice.mode` must be `auto` or `required`"),
            }
        }
        (_, Some(kind), _) if kind != "function" => {
            let kind: String = kind.chars().take(64).collect();
            Err(ApiError::unsupported("tool_choice", &format!("choosing a tool of type `{kind}`")))
        }
        _ => invalid("`tool_choice` must be `none`, `auto`, `required`, or a function with its `name`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(fields: Value) -> Result<Value, ApiError> {
        let mut chat = Map::new();
        to_chat(&Fields::read(fields.to_string().as_bytes()).unwrap(), &mut chat).map(|()| chat.into())
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "name": name, "parameters": {"type": "object"}, "strict": true})
    }

    fn wrapped(name: &str) -> Value {
        let function = json!({"name": name, "parameters": {"type": "object"}, "strict": true});
        json!({"type": "function", "function": function})
    }

    #[test]
    fn functions_get_a_level_more_and_hosted_tools_are_left_out() {
        let tools = json!([tool("f"), {"type": "web_search"}, {"type": "custom", "name": "patch"}]);
        assert_eq!(chat(json!({"tools": tools})).unwrap(), json!({"tools": [wrapped("f")]}));
        let left = served(&Fields::read(json!({"tools": tools}).to_string().as_bytes()).unwrap()).unwrap();
        assert_eq!(left, json!([tool("f")]));
    }

    #[test]
    fn functions_in_namespaces_get_longer_names() {
        for (namespace, flat) in [("crm", "crm__f"), ("mcp__files__", "mcp__files__f")] {
            let tools = json!([{"type": "namespace", "name": namespace, "tools": [tool("f"), {"type": "custom"}]}]);
            assert_eq!(chat(json!({"tools": tools})).unwrap(), json!({"tools": [wrapped(flat)]}));
            let expected = HashMap::from([(flat.to_owned(), (namespace.to_owned(), "f".to_owned()))]);
            assert_eq!(namespaces(&tools), expected);
        }
    }

    #[test]
    fn choices_are_put_into_the_words_of_chats() {
        let tools = json!([tool("f"), tool("g")]);
        let allowed =
            json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]});
        for (choice, expected, left) in [
            (json!("auto"), json!("auto"), json!([wrapped("f"), wrapped("g")])),
            (json!("required"), json!("required"), json!([wrapped("f"), wrapped("g")])),
            (
                json!({"type": "function", "name": "g"}),
                json!({"type": "function", "function": {"name": "g"}}),
                json!([wrapped("f"), wrapped("g")]),
            ),
            (allowed, json!("required"), json!([wrapped("g")])),
        ] {
            let told = chat(json!({"tools": tools, "tool_choice": choice})).unwrap();
            assert_eq!(told, json!({"tool_choice": expected, "tools": left}));
        }
    }

    #[test]
    fn faults_name_their_place() {
        for (fields, param, told) in [
            (json!({"tools": [{"type": "function"}]}), "tools", "tools[0]: a function needs `name`"),
            (json!({"tools": [{"name": "f"}]}), "tools", "tools[0]: needs a `type`"),
            (json!({"tool_choice": {"type": "web_search"}}), "tool_choice", "`web_search`"),
            (json!({"tool_choice": "f"}), "tool_choice", "must be `none`"),
            (json!({"tool_choice": {"type": "allowed_tools", "tools": []}}), "tool_choice", "mode"),
        ] {
            let error = chat(fields).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            assert_eq!(error.to_json()["error"]["param"], param);
        }
    }
}

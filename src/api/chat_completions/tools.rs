//! `tools`, `tool_choice` and `parallel_tool_calls`: which tools the model may call, and whether it must.

use serde_json::Value;

use super::super::{error::ApiError, fields::Fields};

/// Most tools of a request.
const TOOLS_MAX: usize = 1024;
/// Longest name of a tool, characters.
const NAME_CHARACTERS_MAX: usize = 64;

/// What a request says about tools.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    /// The tools that the model is told of, OpenAI's objects, checked; none where it isn't told of any.
    pub tools: Vec<Value>,
    /// Whether it must call.
    pub force: Force,
    /// Whether it may call several.
    pub parallel: bool,
}

/// Whether a call is forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// The model decides.
    No,
    /// Any of the tools, at least once.
    Any,
    /// The tool at this place in the list, once.
    One(usize),
}

impl ToolUse {
    /// Reads and checks the fields.
    pub fn read(fields: &Fields) -> Result<Self, ApiError> {
        let parallel = fields.get("parallel_tool_calls")?.unwrap_or(true);
        let mut tools = checked_tools(fields)?;
        let force = match fields.raw("tool_choice") {
            None => Force::No,
            Some(Value::String(word)) => by_word(word, &mut tools)?,
            Some(choice @ Value::Object(_)) => by_object(choice, &mut tools)?,
            Some(_) => return Err(choice_fault("must be a string or an object")),
        };
        if force != Force::No && tools.is_empty() {
            return Err(choice_fault("needs `tools` to choose from"));
        }
        Ok(Self { tools, force, parallel })
    }

    /// What the chat template is told.
    pub fn for_template(&self) -> Option<Value> {
        (!self.tools.is_empty()).then(|| Value::from(self.tools.clone()))
    }
}

fn checked_tools(fields: &Fields) -> Result<Vec<Value>, ApiError> {
    let fault = |what: String| ApiError::invalid("tools", what);
    let Some(given) = fields.raw("tools") else { return Ok(Vec::new()) };
    let list = given.as_array().ok_or_else(|| fault("`tools` must be a list".into()))?;
    if list.len() > TOOLS_MAX {
        return Err(fault(format!("at most {TOOLS_MAX} `tools` can be given")));
    }
    for (index, tool) in list.iter().enumerate() {
        check_tool(tool).map_err(|what| fault(format!("tools[{index}]{what}")))?;
        if list[..index].iter().any(|other| name(other) == name(tool)) {
            return Err(fault(format!("tools[{index}].function.name: there is another tool of this name")));
        }
    }
    Ok(list.clone())
}

fn check_tool(tool: &Value) -> Result<(), String> {
    let fields = tool.as_object().ok_or(" must be an object: {\"type\": \"function\", \"function\": {…}}")?;
    if fields.get("type").is_none_or(|kind| kind != "function") {
        return Err(".type must be \"function\"".into());
    }
    let function = fields.get("function").and_then(Value::as_object);
    let function = function.ok_or(".function must be an object with a `name`")?;
    let name = function.get("name").and_then(Value::as_str).ok_or(".function.name must be a string")?;
    let legal = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
    if !(1..=NAME_CHARACTERS_MAX).contains(&name.chars().count()) || !name.chars().all(legal) {
        let most = NAME_CHARACTERS_MAX;
        return Err(format!(".function.name must be 1 to {most} letters, digits, `_`, `-` or `.`, got {name:?}"));
    }
    let is =
        |field: &str, kind: fn(&Value) -> bool| function.get(field).is_none_or(|value| value.is_null() || kind(value));
    if !is("description", Value::is_string) {
        return Err(".function.description must be a string".into());
    }
    if !is("parameters", Value::is_object) {
        return Err(".function.parameters must be a JSON schema: an object".into());
    }
    Ok(())
}

fn by_word(word: &str, tools: &mut Vec<Value>) -> Result<Force, ApiError> {
    match word {
        "auto" => Ok(Force::No),
        "required" => Ok(Force::Any),
        "none" => {
            tools.clear();
            Ok(Force::No)
        }
        other => Err(choice_fault(&format!("must be \"auto\", \"none\", \"required\" or name a tool, got {other:?}"))),
    }
}

/// `{"type": "function", "function": {"name"}}`, or `{"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}`.
fn by_object(choice: &Value, tools: &mut Vec<Value>) -> Result<Force, ApiError> {
    match choice["type"].as_str() {
        Some("function") => {
            let wanted = choice["function"]["name"].as_str();
            let wanted = wanted.ok_or_else(|| choice_fault(".function.name must be a string"))?;
            let place = tools.iter().position(|tool| name(tool) == Some(wanted));
            place.map(Force::One).ok_or_else(|| choice_fault(&format!("names {wanted:?}, which isn't among `tools`")))
        }
        Some("allowed_tools") => {
            let allowed = &choice["allowed_tools"];
            let list = allowed["tools"].as_array();
            let list = list.ok_or_else(|| choice_fault(".allowed_tools.tools must be a list"))?;
            if let Some(unknown) = list.iter().find(|one| !tools.iter().any(|tool| name(tool) == name(one))) {
                return Err(choice_fault(&format!(" allows a tool that isn't among `tools`: {unknown}")));
            }
            tools.retain(|tool| list.iter().any(|one| name(one) == name(tool)));
            match allowed["mode"].as_str() {
                Some("auto") => Ok(Force::No),
                Some("required") => Ok(Force::Any),
                _ => Err(choice_fault(".allowed_tools.mode must be \"auto\" or \"required\"")),
            }
        }
        _ => Err(choice_fault(".type must be \"function\" or \"allowed_tools\"")),
    }
}

/// A tool's name.
pub fn name(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str()
}

fn choice_fault(what: &str) -> ApiError {
    let space = if what.starts_with(['.', ' ']) { "" } else { " " };
    ApiError::invalid("tool_choice", format!("`tool_choice`{space}{what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<ToolUse, ApiError> {
        ToolUse::read(&Fields::of(body.as_object().unwrap().clone()))
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    #[test]
    fn a_choice_says_which_tools_and_whether_they_are_forced() {
        let allowed = |mode: &str| {
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [
                {"type": "function", "function": {"name": "b"}}]}})
        };
        for (choice, names, force) in [
            (json!(null), vec!["a", "b"], Force::No),
            (json!("auto"), vec!["a", "b"], Force::No),
            (json!("none"), vec![], Force::No),
            (json!("required"), vec!["a", "b"], Force::Any),
            (json!({"type": "function", "function": {"name": "b"}}), vec!["a", "b"], Force::One(1)),
            (allowed("auto"), vec!["b"], Force::No),
            (allowed("required"), vec!["b"], Force::Any),
        ] {
            let found = read(json!({"tools": [tool("a"), tool("b")], "tool_choice": choice})).unwrap();
            let found_names: Vec<_> = found.tools.iter().filter_map(name).collect();
            assert_eq!((found_names, found.force, found.parallel), (names, force, true), "{choice}");
        }
        assert_eq!(read(json!({"tool_choice": "auto"})).unwrap().for_template(), None);
    }

    #[test]
    fn faults_name_the_field_and_the_place() {
        for (body, param, told) in [
            (json!({"tools": {}}), "tools", "must be a list"),
            (json!({"tools": [tool("a"), 3]}), "tools", "tools[1] must be an object"),
            (json!({"tools": [{"function": {"name": "a"}}]}), "tools", "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), "tools", "tools[0].function must"),
            (json!({"tools": [{"type": "function", "function": {}}]}), "tools", "tools[0].function.name"),
            (json!({"tools": [tool("a b")]}), "tools", "got \"a b\""),
            (json!({"tools": [tool(&"a".repeat(65))]}), "tools", "1 to 64"),
            (json!({"tools": [tool("a"), tool("a")]}), "tools", "tools[1].function.name: there is another"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}),
                "tools",
                "JSON schema",
            ),
            (json!({"tool_choice": "required"}), "tool_choice", "needs `tools`"),
            (json!({"tools": [tool("a")], "tool_choice": "maybe"}), "tool_choice", "got \"maybe\""),
            (json!({"tools": [tool("a")], "tool_choice": 1}), "tool_choice", "string or an object"),
            (json!({"tools": [tool("a")], "tool_choice": {"type": "x"}}), "tool_choice", "`tool_choice`.type"),
            (
                json!({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "z"}}}),
                "tool_choice",
                "\"z\"",
            ),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert_eq!(error.to_json()["error"]["param"], param, "{body}");
            assert!(error.to_string().contains(told), "{body}: {error}");
        }
    }
}

//! The tools of a request, as far as parsers must know them.

use std::collections::HashMap;

use serde_json::Value;

/// Names and parameters' schemas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    parameters: HashMap<String, Value>,
}

/// What a parameter's schema says about how its value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// A string: whatever stands there is its text.
    Text,
    /// Something else, or nothing is known: JSON where it is JSON.
    Json,
}

impl Tools {
    /// Of OpenAI's `tools`: a list of `{"type": "function", "function": {"name", "parameters"}}`.
    pub fn of(list: &[Value]) -> Self {
        let tool = |tool: &Value| {
            let function = tool.get("function").unwrap_or(tool);
            Some((function["name"].as_str()?.to_owned(), function["parameters"].clone()))
        };
        Self { parameters: list.iter().filter_map(tool).collect() }
    }

    /// Whether there is a tool of this name.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// How the value of a tool's parameter is written.
    pub(crate) fn kind(&self, tool: &str, parameter: &str) -> ValueKind {
        let schema = self.parameters.get(tool).map(|schema| &schema["properties"][parameter]);
        if schema.is_some_and(is_text) { ValueKind::Text } else { ValueKind::Json }
    }
}

fn is_text(schema: &Value) -> bool {
    if schema["type"] == "string" {
        return true;
    }
    let all_texts =
        |list: &Value| list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string));
    // Choices of strings may come without a type.
    schema["type"].is_null() && all_texts(&schema["enum"])
}

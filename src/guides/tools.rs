//! Grammars of forced calls of tools. They don't depend on how a model was taught to call: the form is our own.

use serde_json::{Map, Value, json};

use super::Grammar;

/// A list of calls of any of `tools` (OpenAI's tool objects, checked before), at least one:
/// `[{"name": …, "parameters": {…}}, …]`; exactly one unless `parallel`.
pub fn required(tools: &[Value], parallel: bool) -> Grammar {
    let calls: Vec<_> = tools.iter().enumerate().map(|(index, tool)| call(index, tool)).collect();
    let mut list = json!({"type": "array", "items": {"anyOf": calls}, "minItems": 1});
    if !parallel {
        list["maxItems"] = json!(1);
    }
    Grammar::JsonSchema(list)
}

/// The arguments of a call of `tool`, one JSON object.
pub fn named(tool: &Value) -> Grammar {
    Grammar::JsonSchema(parameters(tool))
}

fn call(index: usize, tool: &Value) -> Value {
    let place = format!("#/items/anyOf/{index}/properties/parameters");
    json!({
        "type": "object",
        "properties": {"name": {"const": tool["function"]["name"]}, "parameters": moved(parameters(tool), &place)},
        "required": ["name", "parameters"],
        "additionalProperties": false,
    })
}

/// The schema of a tool's arguments; a tool without one takes no arguments.
fn parameters(tool: &Value) -> Value {
    match &tool["function"]["parameters"] {
        Value::Object(schema) => Value::Object(as_object(schema)),
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}

/// Arguments are an object even where the schema forgets to say so.
fn as_object(schema: &Map<String, Value>) -> Map<String, Value> {
    let mut schema = schema.clone();
    schema.entry("type").or_insert_with(|| json!("object"));
    schema
}

/// A schema that now stands at `place` of another: its references follow.
fn moved(schema: Value, place: &str) -> Value {
    match schema {
        Value::Object(fields) => fields.into_iter().map(|(name, value)| moved_field(name, value, place)).collect(),
        Value::Array(items) => items.into_iter().map(|item| moved(item, place)).collect(),
        other => other,
    }
}

fn moved_field(name: String, value: Value, place: &str) -> (String, Value) {
    let value = match value.as_str().and_then(|reference| reference.strip_prefix('#')) {
        Some(path) if name == "$ref" => Value::String(format!("{place}{}", path.trim_end_matches('/'))),
        // What stands in these is data, not schema.
        _ if ["const", "enum", "default", "examples"].contains(&name.as_str()) => value,
        _ => moved(value, place),
    };
    (name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_follow_their_schema() {
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": {
            "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"const": {"$ref": "#/$defs/a"}}},
            "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        }}});
        let Grammar::JsonSchema(list) = required(std::slice::from_ref(&tool), false) else { panic!() };
        let place = "/items/anyOf/0/properties/parameters";
        let own = list.pointer(place).unwrap();
        assert_eq!(own["type"], "object");
        assert_eq!(own["properties"]["a"]["$ref"], format!("#{place}/$defs/a"));
        assert_eq!(own["properties"]["b"], json!({"const": {"$ref": "#/$defs/a"}}));
        assert_eq!(own["$defs"]["a"]["anyOf"][1]["$ref"], format!("#{place}"));
        assert_eq!(list["maxItems"], 1);
        assert_eq!(named(&tool), Grammar::JsonSchema(parameters(&tool)));
    }
}

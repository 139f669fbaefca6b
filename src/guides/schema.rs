//! JSON schemas: made ready for the library, and searched for what it refused.

use serde_json::{Map, Value, json};

use super::grammar::Whitespace;

/// The values of `format` that are enforced. All others are annotations, as JSON Schema has it.
const FORMATS: &[&str] =
    &["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];
/// Between tokens of JSON: a line's end and an indentation, or a space or two. Without a bound, small models like to write
/// newlines and tabs until their tokens run out.
const WHITESPACE: &str = r"\r?\n(\x20{0,32}|\x09{0,8})|\x20{1,2}";
/// What these fields hold is data, not schema.
const DATA: &[&str] = &["const", "enum", "default", "examples"];
/// Parts of a schema that are compiled alone to find the one at fault.
const PARTS_TRIED_MAX: usize = 100;

/// The schema as the library takes it, with its options; of those, what the client itself says in `x-guidance` counts more.
pub(super) fn for_library(schema: &Value, whitespace: Whitespace) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        other => other.clone(),
    };
    drop_annotations(&mut schema);
    if let Some(fields) = schema.as_object_mut() {
        let options = fields.entry("x-guidance").or_insert_with(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            let flexible = options.entry("whitespace_flexible").or_insert(json!(whitespace == Whitespace::Any));
            if *flexible == true {
                options.entry("whitespace_pattern").or_insert(json!(WHITESPACE));
            }
            // `oneOf` can't be told from `anyOf` while a text grows.
            options.entry("coerce_one_of").or_insert(json!(true));
        }
    }
    schema
}

fn drop_annotations(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let is_known = |format: &Value| format.as_str().is_none_or(|name| FORMATS.contains(&name));
            if fields.get("format").is_some_and(|format| !is_known(format)) {
                fields.shift_remove("format");
            }
            let parts = fields.iter_mut().filter(|(name, _)| !DATA.contains(&name.as_str()));
            parts.for_each(|(_, part)| drop_annotations(part));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_annotations),
        _ => {}
    }
}

/// Where the innermost part is that is refused for the same reason as the whole, as a JSON pointer; empty: the whole is.
/// `refusal` compiles a part.
pub(super) fn place_of_fault(
    schema: &Value,
    message: &str,
    mut refusal: impl FnMut(&Value) -> Option<String>,
) -> String {
    let Some(root) = schema.as_object() else { return String::new() };
    let definitions: Map<_, _> = ["$defs", "definitions"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), root.get(name)?.clone())))
        .collect();
    let (mut place, mut part, mut tried) = (String::new(), schema, 0);
    'descend: loop {
        for (step, inner) in parts(part) {
            tried += 1;
            if tried > PARTS_TRIED_MAX {
                return place;
            }
            if refusal(&with_definitions(inner, &definitions)).as_deref() == Some(message) {
                place.push_str(&step);
                part = inner;
                continue 'descend;
            }
        }
        return place;
    }
}

/// The schemas directly within a schema, each with its step of a JSON pointer.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, value) in schema.as_object().into_iter().flatten() {
        match name.as_str() {
            "items" | "additionalProperties" | "not" if value.is_object() => found.push((format!("/{name}"), value)),
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let named = value.as_object().into_iter().flatten();
                found.extend(named.map(|(key, inner)| (format!("/{name}/{}", escaped(key)), inner)));
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" | "items" => {
                let listed = value.as_array().into_iter().flatten().enumerate();
                found.extend(listed.map(|(index, inner)| (format!("/{name}/{index}"), inner)));
            }
            _ => {}
        }
    }
    found
}

/// A key within a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A part alone, with what it may refer to.
fn with_definitions(part: &Value, definitions: &Map<String, Value>) -> Value {
    let mut part = part.clone();
    if let Some(fields) = part.as_object_mut() {
        for (name, value) in definitions {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_formats_are_annotations() {
        let schema = json!({
            "properties": {"a": {"format": "password"}, "b": {"format": "date"}, "format": {"type": "string"}},
            "const": {"format": "data"},
        });
        let made = for_library(&schema, Whitespace::Compact);
        assert_eq!(made["properties"], json!({"a": {}, "b": {"format": "date"}, "format": {"type": "string"}}));
        assert_eq!(made["const"], schema["const"]);
        assert_eq!(made["x-guidance"], json!({"whitespace_flexible": false, "coerce_one_of": true}));
    }

    #[test]
    fn whitespace_has_a_bound_unless_the_client_says_otherwise() {
        let options = |schema: Value| for_library(&schema, Whitespace::Any)["x-guidance"].clone();
        assert_eq!(options(json!({}))["whitespace_pattern"], WHITESPACE);
        assert_eq!(options(json!({"x-guidance": {"whitespace_flexible": false}})).get("whitespace_pattern"), None);
        assert_eq!(options(json!({"x-guidance": {"whitespace_pattern": " ?"}}))["whitespace_pattern"], " ?");
    }

    #[test]
    fn the_innermost_fault_is_found() {
        let schema =
            json!({"properties": {"x": {"type": "string"}, "a/b": {"items": {"anyOf": [true, {"type": "no"}]}}}});
        let refusal = |part: &Value| part.to_string().contains("\"no\"").then(|| "it is no".to_owned());
        assert_eq!(place_of_fault(&schema, "it is no", refusal), "/properties/a~1b/items/anyOf/1");
        assert_eq!(place_of_fault(&schema, "another", refusal), "");
        assert_eq!(place_of_fault(&json!("no"), "it is no", refusal), "");
    }
}

//! The form that a client wants an answer to have: `response_format`, `guided_*`, `structural_tag`, `structured_outputs`.

use serde_json::{Map, Value, json};

use super::{error::ApiError, fields::Fields, generation::Generation, model::ServedModel};
use crate::{
    guides::{
        Begins, Compiled, Grammar, GrammarError, Thinking,
        structural_tag::{StructuralTag, Structure},
    },
    text::ReasoningFormat,
};

/// The fields of which one may be given, and how each is read. The first are FastDeploy's and OpenAI's.
const FIELDS: &[(&str, Read)] = &[
    ("response_format", response_format),
    ("guided_json", json_schema),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
    ("guided_json_object", json_object),
    ("structural_tag", structural_tag),
    ("structured_outputs", structured_outputs),
];

/// The same, within vLLM's `structured_outputs`.
const INNER_FIELDS: &[(&str, Read)] = &[
    ("json", json_schema),
    ("regex", regex),
    ("choice", choice),
    ("grammar", grammar),
    ("json_object", json_object),
    ("structural_tag", structural_tag),
];

/// A grammar out of a field's value; none where it asks for nothing. Faults are told without the field's name.
type Read = fn(&Value) -> Result<Option<Grammar>, String>;

/// The form that is asked for, compiled. Takes milliseconds, for a large schema many.
pub fn read(fields: &Fields, model: &ServedModel) -> Result<Option<Compiled>, ApiError> {
    let Some((name, grammar)) = asked(fields)? else { return Ok(None) };
    compile(name, &grammar, model).map(Some)
}

/// How the reasoning before an answer is followed: where it has a budget, or a form is to follow it. `prompt_end` is the
/// text of the prompt's last tokens.
pub fn thinking(
    generation: &Generation,
    model: &ServedModel,
    prompt_end: &str,
    is_enabled: bool,
) -> Result<Option<Thinking>, ApiError> {
    let (budget, has_form) = (generation.reasoning_max_tokens, generation.form.is_some());
    let format = match model.reasoning {
        Some(format) if budget.is_some() || has_form => format,
        // Reasoning isn't told apart here: a form is that of the whole text, and a budget goes by the usual marks.
        None if budget.is_some() && !has_form => ReasoningFormat::usual(),
        _ => return Ok(None),
    };
    let begins = match () {
        () if format.starts_thinking(prompt_end, is_enabled) => Begins::Thinking,
        () if is_enabled && !format.has_thought(prompt_end) => Begins::Undecided,
        () => return Ok(None),
    };
    let name = if budget.is_some() { "reasoning_max_tokens" } else { "response_format" };
    model.guides.thinking(format, begins, budget).map(Some).map_err(|error| fault(name, &error))
}

/// A grammar against the model's vocabulary; what is wrong with it is the fault of the parameter `name`.
pub fn compile(name: &str, grammar: &Grammar, model: &ServedModel) -> Result<Compiled, ApiError> {
    model.guides.compile(grammar).map_err(|error| fault(name, &error))
}

fn fault(name: &str, error: &GrammarError) -> ApiError {
    match error {
        GrammarError::Refused(message) => ApiError::invalid(name, format!("`{name}`: {message}")),
        GrammarError::Off => ApiError::invalid(name, error.to_string()),
        GrammarError::Busy => ApiError::unavailable(error.to_string()),
        GrammarError::NoVocabulary(_) => ApiError::internal(error.to_string()),
    }
}

/// The one field that asks for a form, and what for.
fn asked(fields: &Fields) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let mut found: Option<(&str, Grammar)> = None;
    for &(name, read) in FIELDS {
        let Some(value) = fields.raw(name) else { continue };
        let fault = |what: String| ApiError::invalid(name, format!("`{name}`{what}"));
        let Some(grammar) = read(value).map_err(fault)? else { continue };
        if let Some((other, _)) = found {
            return Err(ApiError::invalid(name, format!("`{name}` and `{other}` can't both be given")));
        }
        found = Some((name, grammar));
    }
    let Some((name, grammar)) = found else { return Ok(None) };
    let whitespace = fields.get::<String>("guided_whitespace_pattern")?;
    Ok(Some((name, with_whitespace(grammar, whitespace.map(Value::from)))))
}

/// JSON with white space as this regular expression has it.
fn with_whitespace(grammar: Grammar, pattern: Option<Value>) -> Grammar {
    match (grammar, pattern) {
        (Grammar::JsonObject, Some(pattern)) => {
            Grammar::JsonSchema(json!({"type": "object", "x-guidance": {"whitespace_pattern": pattern}}))
        }
        (Grammar::JsonSchema(Value::Object(mut schema)), Some(pattern)) => {
            schema.entry("x-guidance").or_insert_with(|| json!({}))["whitespace_pattern"] = pattern;
            Grammar::JsonSchema(Value::Object(schema))
        }
        (other, _) => other,
    }
}

fn response_format(value: &Value) -> Result<Option<Grammar>, String> {
    match value["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Grammar::JsonObject)),
        Some("json_schema") => {
            let inner = value.get("json_schema").and_then(Value::as_object);
            let inner = inner.ok_or(".json_schema must be an object with `name` and `schema`")?;
            // The OpenAI client's own name for it, and FastDeploy's.
            let schema = inner.get("schema").or(inner.get("json_schema")).filter(|schema| !schema.is_null());
            json_schema(schema.ok_or(".json_schema.schema is missing")?)
        }
        Some("structural_tag") => structural_tag(value),
        _ => Err(".type must be \"text\", \"json_object\", \"json_schema\" or \"structural_tag\"".into()),
    }
}

fn structured_outputs(value: &Value) -> Result<Option<Grammar>, String> {
    let fields = value.as_object().ok_or(" must be an object")?;
    let mut found: Option<(&str, Grammar)> = None;
    for &(name, read) in INNER_FIELDS {
        let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { continue };
        let Some(grammar) = read(value).map_err(|what| format!(".{name}{what}"))? else { continue };
        if let Some((other, _)) = found {
            return Err(format!(" can't have both `{other}` and `{name}`"));
        }
        found = Some((name, grammar));
    }
    let names = INNER_FIELDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let (_, grammar) = found.ok_or_else(|| format!(" must have one of: {names}"))?;
    Ok(Some(with_whitespace(grammar, whitespace_of(fields))))
}

fn whitespace_of(fields: &Map<String, Value>) -> Option<Value> {
    let pattern = fields.get("whitespace_pattern").filter(|pattern| pattern.is_string());
    let none = fields.get("disable_any_whitespace") == Some(&Value::Bool(true));
    pattern.cloned().or_else(|| none.then(|| json!("")))
}

/// A schema as an object, or as the text of one.
fn json_schema(value: &Value) -> Result<Option<Grammar>, String> {
    let schema = text_of_json(value)?;
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(Some(Grammar::JsonSchema(schema))),
        _ => Err(" must be a JSON schema: an object".into()),
    }
}

fn json_object(value: &Value) -> Result<Option<Grammar>, String> {
    let wanted = value.as_bool().ok_or(" must be true or false")?;
    Ok(wanted.then_some(Grammar::JsonObject))
}

fn regex(value: &Value) -> Result<Option<Grammar>, String> {
    Ok(Some(Grammar::Regex(text(value)?)))
}

fn grammar(value: &Value) -> Result<Option<Grammar>, String> {
    Ok(Some(Grammar::Text(text(value)?)))
}

fn choice(value: &Value) -> Result<Option<Grammar>, String> {
    let texts = value.as_array().map(|list| list.iter().map(text).collect::<Result<_, _>>());
    let texts = texts.unwrap_or_else(|| Err(String::new())).map_err(|_| " must be a list of strings")?;
    Ok(Some(Grammar::Choice(texts)))
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| " must be a string".into())
}

/// JSON that may have been sent as a string.
fn text_of_json(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) => serde_json::from_str(text).map_err(|error| format!(" is not valid JSON: {error}")),
        other => Ok(other.clone()),
    }
}

/// FastDeploy's and vLLM's `{"structures": [{"begin", "schema", "end"}], "triggers": […]}`.
fn structural_tag(value: &Value) -> Result<Option<Grammar>, String> {
    let value = text_of_json(value)?;
    let list = |name: &str| value[name].as_array().ok_or_else(|| format!(".{name} must be a list"));
    let structures = list("structures")?.iter().enumerate().map(|(index, form)| structure(index, form));
    let triggers = list("triggers")?.iter().map(|trigger| text(trigger).map_err(|_| ".triggers must be strings"));
    let tag = StructuralTag {
        structures: structures.collect::<Result<_, _>>()?,
        triggers: triggers.collect::<Result<_, _>>()?,
    };
    Ok(Some(Grammar::StructuralTag(tag)))
}

fn structure(index: usize, form: &Value) -> Result<Structure, String> {
    let place = |name: &str| format!(".structures[{index}].{name}");
    let text = |name: &str| text(&form[name]).map_err(|what| place(name) + &what);
    let schema = form.get("schema").ok_or_else(|| place("schema") + " is missing")?;
    let schema = text_of_json(schema).map_err(|what| place("schema") + &what)?;
    Ok(Structure { begin: text("begin")?, schema, end: text("end")? })
}

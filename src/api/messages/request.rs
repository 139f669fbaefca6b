//! A request's fields in the words of chats.

use serde_json::{Map, Value, json};

use super::{content, tools};
use crate::api::{error::ApiError, fields::Fields};

/// What this dialect alone has, and chats in other words or not at all.
const OWN: [&str; 6] = ["system", "stop_sequences", "stop", "thinking", "output_config", "cache_control"];

/// The fields of the chat that is meant.
pub fn to_chat(given: Fields) -> Result<Fields, ApiError> {
    let mut chat = Map::new();
    let conversation = content::conversation(&given)?;
    if conversation.ends_with_assistant() {
        // The client wrote the beginning of the answer itself.
        chat.insert("add_generation_prompt".into(), false.into());
        chat.insert("continue_final_message".into(), true.into());
    }
    chat.insert("messages".into(), conversation.into_messages());
    tools::to_chat(&given, &mut chat)?;
    if let Some(stop) = given.get::<Vec<String>>("stop_sequences")? {
        chat.insert("stop".into(), stop.into());
    }
    thinking(&given, &mut chat)?;
    output(&given, &mut chat)?;
    Ok(given.into_chat(chat, &OWN))
}

/// Without a word about it, Anthropic's models don't think aloud.
fn thinking(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let fault = |message: &str| Err(ApiError::invalid("thinking", format!("`thinking`: {message}")));
    let thinking: Map<String, Value> = given.get("thinking")?.unwrap_or_default();
    let thinking = Fields::of(thinking);
    let thinks = match thinking.get::<String>("type")?.as_deref() {
        Some("enabled") => match thinking.integer("budget_tokens", 1..=i64::MAX)? {
            Some(budget) => {
                chat.insert("reasoning_max_tokens".into(), budget.into());
                true
            }
            None => return fault("`budget_tokens` is required with the type `enabled`"),
        },
        Some("adaptive") => true,
        Some("disabled") => false,
        None if given.raw("thinking").is_none() => false,
        _ => return fault("its `type` must be `enabled`, `adaptive` or `disabled`"),
    };
    let said_otherwise =
        given.raw("chat_template_kwargs").is_some_and(|kwargs| kwargs.get("enable_thinking").is_some());
    if !said_otherwise || given.raw("thinking").is_some() {
        chat.insert("enable_thinking".into(), thinks.into());
    }
    Ok(())
}

/// `output_config`: the effort is told to the template, where it knows such a thing; a format becomes the chat's.
fn output(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let config = Fields::of(given.get("output_config")?.unwrap_or_default());
    if let Some(effort) = config.get::<String>("effort")? {
        chat.insert("reasoning_effort".into(), effort.into());
    }
    let Some(format) = config.raw("format") else { return Ok(()) };
    match (format.get("type").and_then(Value::as_str), format.get("schema")) {
        (Some("json_schema"), Some(schema)) => {
            let schema = json!({"name": "answer", "schema": schema});
            chat.insert("response_format".into(), json!({"type": "json_schema", "json_schema": schema}));
            Ok(())
        }
        _ => {
            let message = "`output_config.format` must be {\"type\": \"json_schema\", \"schema\": {...}}";
            Err(ApiError::invalid("output_config", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(fields: Value) -> Result<Map<String, Value>, ApiError> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        to_chat(Fields::read(body.to_string().as_bytes()).unwrap()).map(Fields::into_body)
    }

    /// What `fields` become, of the names in `expected`; null: they are absent.
    fn check(fields: Value, expected: Value) {
        let chat = chat(fields.clone()).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(chat.get(name).unwrap_or(&Value::Null), value, "{name} of {fields}");
        }
    }

    #[test]
    fn fields_get_the_names_of_chats() {
        check(json!({"stop_sequences": ["a"], "top_k": 3, "seed": 1}), json!({"stop": ["a"], "top_k": 3, "seed": 1}));
        check(json!({"metadata": {"user_id": "u"}, "n": 5}), json!({"metadata": null, "user": null, "n": null}));
        check(json!({"output_config": {"effort": "low"}}), json!({"reasoning_effort": "low"}));
        let schema = json!({"type": "object"});
        check(
            json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}),
        );
    }

    #[test]
    fn thinking_is_off_unless_it_is_asked_for() {
        let enabled = json!({"type": "enabled", "budget_tokens": 9});
        check(json!({"thinking": enabled}), json!({"enable_thinking": true, "reasoning_max_tokens": 9}));
        check(
            json!({"thinking": {"type": "adaptive"}}),
            json!({"enable_thinking": true, "reasoning_max_tokens": null}),
        );
        check(json!({"thinking": {"type": "disabled"}}), json!({"enable_thinking": false}));
        check(json!({}), json!({"enable_thinking": false}));
        check(json!({"enable_thinking": true}), json!({"enable_thinking": true}));
        check(json!({"chat_template_kwargs": {"enable_thinking": true}}), json!({"enable_thinking": null}));
        for wrong in [json!({"type": "enabled"}), json!({"type": "loud"}), json!({}), json!(true)] {
            assert!(chat(json!({"thinking": wrong})).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_beginning_of_an_answer_is_continued() {
        let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]);
        let continued = json!({"add_generation_prompt": false, "continue_final_message": true});
        check(json!({"messages": messages}), continued);
        check(json!({}), json!({"add_generation_prompt": null, "continue_final_message": null}));
    }
}

//! What the chat template is told beside the messages.

use serde_json::{Map, Value};

use super::{
    super::{error::ApiError, fields::Fields},
    tools::ToolUse,
};
use crate::text::ChatOptions;

/// The template's variables, and what they mean elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateOptions {
    /// What the template is told.
    pub chat: ChatOptions,
    /// Whether the model may think.
    pub thinking: bool,
}

impl TemplateOptions {
    /// Reads the fields. The top level counts more than `chat_template_kwargs`, that more than `metadata`.
    pub fn read(fields: &Fields, tools: &ToolUse) -> Result<Self, ApiError> {
        let mut kwargs: Map<String, Value> = fields.get("chat_template_kwargs")?.unwrap_or_default();
        let thinking = thinking(fields, &kwargs)?;
        kwargs.insert("enable_thinking".into(), Value::Bool(thinking));
        if let Some(effort) = fields.get::<String>("reasoning_effort")? {
            kwargs.entry("reasoning_effort").or_insert(effort.into());
        }
        let chat = ChatOptions {
            add_generation_prompt: fields.get("add_generation_prompt")?.unwrap_or(true),
            continue_final_message: fields.flag("continue_final_message")?,
            tools: tools.for_template(),
            documents: fields.get::<Vec<Value>>("documents")?.map(Value::from),
            kwargs,
            template: fields.get("chat_template")?,
        };
        Ok(Self { chat, thinking })
    }
}

/// Whether the model may think: `enable_thinking`, or FastDeploy's `options.thinking_mode` of the template's variables.
fn thinking(fields: &Fields, kwargs: &Map<String, Value>) -> Result<bool, ApiError> {
    let by_mode = mode(kwargs)?.map(Value::Bool);
    let given = fields.own("enable_thinking").or(kwargs.get("enable_thinking").filter(|given| !given.is_null()));
    let given = given.or(by_mode.as_ref()).or(fields.raw("enable_thinking"));
    match given {
        None => Ok(true),
        Some(Value::Bool(thinking)) => Ok(*thinking),
        Some(_) => Err(ApiError::invalid("enable_thinking", "`enable_thinking` must be true or false")),
    }
}

fn mode(kwargs: &Map<String, Value>) -> Result<Option<bool>, ApiError> {
    let fault = |what| Err(ApiError::invalid("chat_template_kwargs", format!("`chat_template_kwargs.{what}")));
    let Some(options) = kwargs.get("options").filter(|options| !options.is_null()) else { return Ok(None) };
    if !options.is_object() {
        return fault("options` must be an object");
    }
    match &options["thinking_mode"] {
        Value::Null => Ok(None),
        Value::Bool(thinking) => Ok(Some(*thinking)),
        Value::String(mode) if ["close", "false"].contains(&mode.as_str()) => Ok(Some(false)),
        Value::String(_) => Ok(Some(true)),
        _ => fault("options.thinking_mode` must be a string"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<TemplateOptions, ApiError> {
        let mut fields = Fields::of(body.as_object().unwrap().clone());
        fields.fall_back_on("metadata")?;
        TemplateOptions::read(&fields, &ToolUse::read(&fields)?)
    }

    #[test]
    fn thinking_is_switched_in_four_places() {
        let mode = |mode: &str| json!({"options": {"thinking_mode": mode}});
        for (body, expected) in [
            (json!({}), true),
            (json!({"enable_thinking": false}), false),
            (json!({"chat_template_kwargs": {"enable_thinking": false}}), false),
            (json!({"metadata": {"enable_thinking": false}}), false),
            (json!({"enable_thinking": true, "chat_template_kwargs": {"enable_thinking": false}}), true),
            (json!({"chat_template_kwargs": {"enable_thinking": true}, "metadata": {"enable_thinking": false}}), true),
            (json!({"chat_template_kwargs": mode("close")}), false),
            (json!({"chat_template_kwargs": mode("false")}), false),
            (json!({"chat_template_kwargs": mode("open")}), true),
            (json!({"enable_thinking": true, "chat_template_kwargs": mode("close")}), true),
        ] {
            let found = read(body.clone()).unwrap();
            assert_eq!(found.thinking, expected, "{body}");
            assert_eq!(found.chat.kwargs["enable_thinking"], expected, "{body}");
        }
        for (wrong, param) in [
            (json!({"enable_thinking": "no"}), "enable_thinking"),
            (json!({"chat_template_kwargs": {"options": 1}}), "chat_template_kwargs"),
            (json!({"chat_template_kwargs": {"options": {"thinking_mode": 1}}}), "chat_template_kwargs"),
            (json!({"chat_template_kwargs": 1}), "chat_template_kwargs"),
        ] {
            assert_eq!(read(wrong.clone()).unwrap_err().to_json()["error"]["param"], param, "{wrong}");
        }
    }
}

//! A request's fields in the words of chats, and what its response repeats of them.

use serde_json::{Map, Value, json};

use super::{input, store::Store, tools};
use crate::api::{conversation::Conversation, error::ApiError, fields::Fields};

/// What this dialect alone has, and chats in other words or not at all.
const OWN: [&str; 12] = [
    "input",
    "instructions",
    "text",
    "reasoning",
    "include",
    "max_output_tokens",
    "max_tokens",
    "max_completion_tokens",
    "store",
    "background",
    "previous_response_id",
    "truncation",
];

/// What the response repeats as it was sent, and what it says where nothing was.
const REPEATED: [(&str, Value); 7] = [
    ("instructions", Value::Null),
    ("max_output_tokens", Value::Null),
    ("max_tool_calls", Value::Null),
    ("previous_response_id", Value::Null),
    ("prompt_cache_key", Value::Null),
    ("safety_identifier", Value::Null),
    ("user", Value::Null),
];

/// A request that was understood.
pub struct Asked {
    /// The fields of the chat that is meant.
    pub chat: Fields,
    /// What the response repeats of the request.
    pub repeated: Map<String, Value>,
    /// All items of the conversation; the last `own_count` are the request's own.
    pub items: Vec<Value>,
    /// How many items the request brought.
    pub own_count: usize,
    /// Whether the response can be looked up later.
    pub store: bool,
    /// Whether it is answered at once and computed later.
    pub background: bool,
    /// Whether log-probabilities stand beside the text.
    pub logprobs: bool,
    /// Whether reasoning items carry what a client needs to send them back.
    pub encrypted_reasoning: bool,
}

impl Asked {
    /// Reads a request; `store` has the response that it continues, and the items that it refers to.
    pub fn read(given: Fields, store: &Store) -> Result<Self, ApiError> {
        refuse_what_is_not_supported(&given)?;
        let own = input::items(&given, store)?;
        let mut items = match given.get::<String>("previous_response_id")? {
            Some(id) => store.conversation(&id)?,
            None => Vec::new(),
        };
        let own_count = own.len();
        items.extend(own);
        let include: Vec<String> = given.get("include")?.unwrap_or_default();
        let includes = |name: &str| include.iter().any(|included| included == name);
        let (logprobs, encrypted) = (includes("message.output_text.logprobs"), includes("reasoning.encrypted_content"));
        let (stored, background) = (given.get("store")?.unwrap_or(true), given.flag("background")?);
        if background && !stored {
            return Err(ApiError::invalid("background", "`background` needs `store`: it could not be found again"));
        }
        let repeated = repeated(&given)?;
        let chat = to_chat(given, &items, logprobs)?;
        Ok(Self {
            chat,
            repeated,
            items,
            own_count,
            store: stored,
            background,
            logprobs,
            encrypted_reasoning: encrypted,
        })
    }
}

/// A fault of the chat's fields, by the names that they have here.
pub fn in_our_words(error: ApiError) -> ApiError {
    [("messages", "input"), ("max_completion_tokens", "max_output_tokens"), ("response_format", "text")]
        .into_iter()
        .fold(error, |error, (theirs, ours)| error.renamed(theirs, ours))
}

fn refuse_what_is_not_supported(given: &Fields) -> Result<(), ApiError> {
    for (name, what) in [("conversation", "a conversation object"), ("prompt", "a prompt template")] {
        if given.raw(name).is_some() {
            return Err(ApiError::unsupported(name, what));
        }
    }
    match given.get::<String>("truncation")?.as_deref() {
        None | Some("auto" | "disabled") => Ok(()),
        Some(_) => Err(ApiError::invalid("truncation", "`truncation` must be `auto` or `disabled`")),
    }
}

/// `truncation: auto` may leave something out; here nothing ever is.
fn repeated(given: &Fields) -> Result<Map<String, Value>, ApiError> {
    let mut repeated: Map<String, Value> = REPEATED
        .iter()
        .map(|(name, default)| ((*name).to_owned(), given.raw(name).unwrap_or(default).clone()))
        .collect();
    let object = |name: &str| given.get::<Map<String, Value>>(name);
    let reasoning = object("reasoning")?.unwrap_or_default();
    let told = |name: &str| reasoning.get(name).cloned().unwrap_or(Value::Null);
    let mut text = object("text")?.unwrap_or_default();
    text.entry("format").or_insert_with(|| json!({"type": "text"}));
    let parallel: Option<bool> = given.get("parallel_tool_calls")?;
    repeated.extend([
        ("metadata".into(), metadata(given)?.into()),
        ("reasoning".into(), json!({"effort": told("effort"), "summary": told("summary")})),
        ("text".into(), text.into()),
        ("tools".into(), tools::served(given)?),
        ("tool_choice".into(), given.raw("tool_choice").cloned().unwrap_or_else(|| "auto".into())),
        ("parallel_tool_calls".into(), parallel.unwrap_or(true).into()),
        ("truncation".into(), "disabled".into()),
        ("top_logprobs".into(), given.integer("top_logprobs", 0..=i64::MAX)?.unwrap_or(0).into()),
        ("service_tier".into(), "default".into()),
    ]);
    Ok(repeated)
}

/// Texts by names, as OpenAI wants it.
fn metadata(given: &Fields) -> Result<Map<String, Value>, ApiError> {
    let metadata: Map<String, Value> = given.get("metadata")?.unwrap_or_default();
    match metadata.values().all(Value::is_string) {
        true => Ok(metadata),
        false => Err(ApiError::invalid("metadata", "`metadata` must hold strings only")),
    }
}

fn to_chat(given: Fields, items: &[Value], logprobs: bool) -> Result<Fields, ApiError> {
    let mut chat = Map::new();
    let mut conversation = Conversation::default();
    if let Some(instructions) = given.get::<String>("instructions")? {
        conversation.system(&instructions);
    }
    input::tell(items, &mut conversation)?;
    if conversation.is_empty() {
        return Err(ApiError::missing("input"));
    }
    chat.insert("messages".into(), conversation.into_messages());
    tools::to_chat(&given, &mut chat)?;
    if let Some(most) = given.integer("max_output_tokens", 1..=i64::MAX)? {
        chat.insert("max_completion_tokens".into(), most.into());
    }
    reasoning(&given, &mut chat)?;
    format(&given, &mut chat)?;
    if logprobs {
        chat.insert("logprobs".into(), true.into());
        chat.extend(given.raw("top_logprobs").map(|count| ("top_logprobs".to_owned(), count.clone())));
    }
    Ok(given.into_chat(chat, &OWN))
}

/// The effort is told to the template, where it knows such a thing; none at all turns thinking off.
fn reasoning(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let reasoning = Fields::of(given.get("reasoning")?.unwrap_or_default());
    match reasoning.get::<String>("effort").map_err(|error| error.about("reasoning"))? {
        Some(none) if none == "none" => {
            chat.insert("enable_thinking".into(), false.into());
        }
        Some(effort) => {
            chat.insert("reasoning_effort".into(), effort.into());
        }
        None => {}
    }
    Ok(())
}

/// `text.format` has one level less than the chat's `response_format`.
fn format(given: &Fields, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let text = Fields::of(given.get("text")?.unwrap_or_default());
    let Some(format) = text.raw("format") else { return Ok(()) };
    let format = match format.get("type").and_then(Value::as_str) {
        Some("text") => return Ok(()),
        Some("json_schema") => {
            let mut schema = format.clone();
            schema.as_object_mut().map(|fields| fields.remove("type"));
            json!({"type": "json_schema", "json_schema": schema})
        }
        Some("json_object") => format.clone(),
        _ => {
            let message = "`text.format.type` must be `text`, `json_object` or `json_schema`";
            return Err(ApiError::invalid("text", message));
        }
    };
    chat.insert("response_format".into(), format);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::responses::Limits;

    fn asked(fields: Value) -> Result<Asked, ApiError> {
        let mut body = json!({"input": "Hi"});
        fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        Asked::read(Fields::read(body.to_string().as_bytes()).unwrap(), &Store::new(Limits::default()))
    }

    /// What `fields` become, of the names in `expected`; null: they are absent.
    fn check(fields: Value, expected: Value) {
        let chat = asked(fields.clone()).unwrap().chat;
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(chat.raw(name).unwrap_or(&Value::Null), value, "{name} of {fields}");
        }
    }

    #[test]
    fn fields_get_the_names_of_chats() {
        check(json!({"max_output_tokens": 7, "seed": 3}), json!({"max_completion_tokens": 7, "seed": 3}));
        check(json!({"metadata": {"a": "b"}, "user": "u", "n": 4}), json!({"metadata": null, "user": null, "n": null}));
        check(json!({"reasoning": {"effort": "none"}}), json!({"enable_thinking": false, "reasoning_effort": null}));
        check(json!({"reasoning": {"effort": "low"}}), json!({"enable_thinking": null, "reasoning_effort": "low"}));
        check(json!({"top_logprobs": 3}), json!({"logprobs": null, "top_logprobs": null}));
        check(
            json!({"include": ["message.output_text.logprobs"], "top_logprobs": 3}),
            json!({"logprobs": true, "top_logprobs": 3}),
        );
        check(
            json!({"instructions": "Be brief."}),
            json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}),
        );
    }

    #[test]
    fn formats_get_a_level_more() {
        let schema = json!({"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": true});
        let inner = json!({"name": "a", "schema": {"type": "object"}, "strict": true});
        for (format, expected) in [
            (json!({"type": "text"}), Value::Null),
            (json!({"type": "json_object"}), json!({"type": "json_object"})),
            (schema, json!({"type": "json_schema", "json_schema": inner})),
        ] {
            check(json!({"text": {"format": format}}), json!({"response_format": expected}));
        }
    }

    #[test]
    fn faults_have_the_names_of_this_dialect() {
        for (fields, param) in [
            (json!({"input": null}), "input"),
            (json!({"input": []}), "input"),
            (json!({"input": 3}), "input"),
            (json!({"input": [{"type": "computer_call"}]}), "input"),
            (json!({"previous_response_id": "resp_x"}), "previous_response_id"),
            (json!({"background": true, "store": false}), "background"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"truncation": "some"}), "truncation"),
            (json!({"metadata": {"a": 1}}), "metadata"),
            (json!({"text": {"format": {"type": "xml"}}}), "text"),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"reasoning": {"effort": 3}}), "reasoning"),
            (json!({"include": "all"}), "include"),
        ] {
            let error = asked(fields.clone()).err().unwrap_or_else(|| panic!("{fields} was accepted"));
            assert_eq!(error.to_json()["error"]["param"], param, "{fields}: {error}");
        }
        let error = in_our_words(ApiError::missing("messages"));
        assert_eq!(
            (error.to_json()["error"]["param"].clone(), error.to_string()),
            ("input".into(), "`input` is required".into())
        );
    }
}

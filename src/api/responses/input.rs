//! `input`: items in, a chat's messages out.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{store::Store, tools};
use crate::api::{
    conversation::{Call, Conversation},
    error::ApiError,
    fields::Fields,
    request_id,
};

/// Items of one page of a list where nothing is said, and at most.
const PAGE: (usize, usize) = (20, 100);

/// The request's own items, each whole and with an id.
pub fn items(given: &Fields, store: &Store) -> Result<Vec<Value>, ApiError> {
    match given.raw("input") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![identified(message("user", text))]),
        Some(Value::Array(items)) => {
            items.iter().enumerate().map(|(index, item)| complete(index, item, store)).collect()
        }
        Some(_) => Err(ApiError::invalid("input", "`input` must be a string or a list of items")),
    }
}

fn complete(index: usize, item: &Value, store: &Store) -> Result<Value, ApiError> {
    let fault = |what: &str| ApiError::invalid("input", format!("input[{index}]: {what}"));
    if !item.is_object() {
        return Err(fault("must be an object"));
    }
    let kind = item.get("type").and_then(Value::as_str);
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    match (kind, text("role"), text("content"), text("id")) {
        (Some("item_reference"), _, _, Some(id)) => {
            store.item(id).ok_or_else(|| fault("the item that it refers to is not stored here"))
        }
        (None | Some("message"), Some(role), Some(content), _) => Ok(identified(message(role, content))),
        (None, Some(_), ..) => {
            let mut item = item.clone();
            item["type"] = "message".into();
            Ok(identified(item))
        }
        (None, None, ..) => Err(fault("needs a `type`, or `role` and `content`")),
        _ => Ok(identified(item.clone())),
    }
}

fn message(role: &str, text: &str) -> Value {
    let kind = if role == "assistant" { "output_text" } else { "input_text" };
    json!({"type": "message", "role": role, "content": [{"type": kind, "text": text}], "status": "completed"})
}

fn identified(mut item: Value) -> Value {
    if !item.get("id").is_some_and(Value::is_string) {
        let prefix = match item["type"].as_str() {
            Some("message") => "msg_",
            Some("reasoning") => "rs_",
            _ => "fc_",
        };
        item["id"] = request_id::make(prefix, None, None).into();
    }
    item
}

/// Adds items to a conversation.
pub fn tell(items: &[Value], conversation: &mut Conversation) -> Result<(), ApiError> {
    for (index, item) in items.iter().enumerate() {
        tell_one(item, conversation).map_err(|fault| ApiError::invalid("input", format!("input[{index}]{fault}")))?;
    }
    Ok(())
}

fn tell_one(item: &Value, conversation: &mut Conversation) -> Result<(), String> {
    let text = |name: &str| {
        item.get(name).and_then(Value::as_str).ok_or_else(|| format!(": the item needs `{name}`, a string"))
    };
    match text("type")? {
        "message" => {
            let texts = texts(item.get("content").ok_or(": a message needs `content`")?)?;
            let say = match text("role")? {
                "system" | "developer" => Conversation::system,
                "user" => Conversation::user,
                "assistant" => Conversation::assistant,
                _ => return Err(": `role` must be `user`, `assistant`, `system` or `developer`".into()),
            };
            texts.into_iter().for_each(|text| say(conversation, text));
        }
        "function_call" => {
            let name = tools::flat_name(text("namespace").ok(), text("name")?);
            let (id, arguments) = (text("call_id")?, text("arguments")?.to_owned());
            conversation.call(Call { id, name: &name, arguments });
        }
        "function_call_output" => {
            let output = item.get("output").ok_or(": the item needs `output`")?;
            conversation.result(text("call_id")?, &texts(output)?.join("\n"));
        }
        "reasoning" => conversation.reasoning(&reasoning(item)),
        kind => {
            let kind: String = kind.chars().take(64).collect();
            return Err(format!(": items of type `{kind}` are not served here"));
        }
    }
    Ok(())
}

/// A string, or parts of text only.
fn texts(content: &Value) -> Result<Vec<&str>, String> {
    match content {
        Value::String(text) => Ok(vec![text]),
        Value::Array(parts) => {
            let text = |(index, part)| text_of(part).map_err(|fault| format!(".content[{index}]: {fault}"));
            parts.iter().enumerate().map(text).collect()
        }
        _ => Err(": `content` must be a string or a list of parts".into()),
    }
}

fn text_of(part: &Value) -> Result<&str, String> {
    let text = |name: &str| part.get(name).and_then(Value::as_str).ok_or_else(|| format!("needs `{name}`, a string"));
    match part.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text" | "text") => text("text"),
        Some("refusal") => text("refusal"),
        Some(kind) => {
            let kind: String = kind.chars().take(64).collect();
            Err(format!("parts of type `{kind}` are not supported here, this model reads text only"))
        }
        None => Err("a part needs a `type`, for instance `input_text`".into()),
    }
}

/// The reasoning itself, as far as the client kept it: in plain words, sealed by us, or as a summary.
fn reasoning(item: &Value) -> String {
    let joined = |name: &str| {
        let parts = item.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
        Some(texts.collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty())
    };
    let sealed = || item.get("encrypted_content").and_then(Value::as_str).and_then(unseal);
    joined("content").or_else(sealed).or_else(|| joined("summary")).unwrap_or_default()
}

/// Reasoning in the form in which clients carry it back unread. It is not secret from them: the same text stands beside.
pub fn seal(reasoning: &str) -> String {
    BASE64_STANDARD.encode(reasoning)
}

fn unseal(sealed: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(sealed).ok()?).ok()
}

/// One page of a list of items, as clients ask for it.
pub fn page(
    mut items: Vec<Value>,
    order: Option<&str>,
    after: Option<&str>,
    limit: Option<&str>,
) -> Result<Value, ApiError> {
    match order {
        Some("asc") => {}
        None | Some("desc") => items.reverse(),
        Some(_) => return Err(ApiError::invalid("order", "`order` must be `asc` or `desc`")),
    }
    let limit = limit.map_or(Some(PAGE.0), |limit| limit.parse().ok().filter(|count| (1..=PAGE.1).contains(count)));
    let limit = limit.ok_or_else(|| ApiError::invalid("limit", "`limit` must be an integer between 1 and 100"))?;
    if let Some(after) = after {
        let place = items.iter().position(|item| item["id"] == after);
        let place = place.ok_or_else(|| ApiError::invalid("after", "`after` must be the id of one of the items"))?;
        items.drain(..=place);
    }
    let has_more = items.len() > limit;
    items.truncate(limit);
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first_id, last_id) = (id(items.first()), id(items.last()));
    Ok(json!({"object": "list", "data": items, "first_id": first_id, "last_id": last_id, "has_more": has_more}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::responses::Limits;

    fn read(input: Value) -> Result<Value, ApiError> {
        let given = Fields::read(json!({"input": input}).to_string().as_bytes()).unwrap();
        let items = items(&given, &Store::new(Limits::default()))?;
        assert!(items.iter().all(|item| item["id"].is_string()), "{items:?}");
        let mut conversation = Conversation::default();
        tell(&items, &mut conversation)?;
        Ok(conversation.into_messages())
    }

    #[test]
    fn items_become_messages() {
        let part = |kind: &str, text: &str| json!({"type": kind, "text": text});
        for (input, expected) in [
            (json!("Hi"), json!([{"role": "user", "content": "Hi"}])),
            (json!([{"role": "user", "content": "Hi"}]), json!([{"role": "user", "content": "Hi"}])),
            (
                json!([
                    {"type": "message", "role": "developer", "content": [part("input_text", "Be brief.")]},
                    {"role": "user", "content": [part("input_text", "a"), part("input_text", "b")]},
                    {"type": "message", "role": "assistant", "content": [part("output_text", "c")]},
                ]),
                json!([
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "a\nb"},
                    {"role": "assistant", "content": "c"},
                ]),
            ),
        ] {
            assert_eq!(read(input.clone()).unwrap(), expected, "{input}");
        }
    }

    #[test]
    fn reasoning_and_calls_are_one_message_with_their_text() {
        for kept in [
            json!({"content": [{"type": "reasoning_text", "text": "Hm."}], "summary": []}),
            json!({"encrypted_content": seal("Hm."), "summary": [{"type": "summary_text", "text": "?"}]}),
            json!({"summary": [{"type": "summary_text", "text": "Hm."}]}),
        ] {
            let mut reasoning = kept;
            reasoning["type"] = "reasoning".into();
            let messages = read(json!([
                reasoning,
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "1"}]},
            ]));
            let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
            let expected = json!([
                {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
                {"role": "tool", "content": "1", "tool_call_id": "a", "name": "f"},
            ]);
            assert_eq!(messages.unwrap(), expected);
        }
    }

    #[test]
    fn faults_name_their_place() {
        let user = |part: Value| json!([{"role": "user", "content": [part]}]);
        for (input, told) in [
            (json!([3]), "input[0]: must be an object"),
            (json!([{}]), "input[0]: needs a `type`"),
            (json!([{"role": "tool", "content": "a"}]), "input[0]: `role`"),
            (json!([{"type": "message", "role": "user"}]), "input[0]: a message needs `content`"),
            (json!([{"type": "item_reference", "id": "msg_1"}]), "input[0]: the item that it refers to"),
            (json!([{"type": "function_call", "call_id": "a"}]), "input[0]: the item needs `name`"),
            (json!([{"type": "web_search_call"}]), "input[0]: items of type `web_search_call`"),
            (user(json!({"type": "input_image"})), "input[0].content[0]: parts of type `input_image`"),
            (user(json!("a")), "input[0].content[0]: a part needs a `type`"),
        ] {
            let error = read(input).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn lists_have_pages() {
        let items = || (1..=5).map(|id| json!({"id": id.to_string()})).collect::<Vec<_>>();
        let ids = |page: &Value| {
            page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect::<String>()
        };
        for (order, after, limit, expected, more) in [
            (None, None, None, "54321", false),
            (Some("asc"), None, Some("2"), "12", true),
            (Some("asc"), Some("2"), Some("3"), "345", false),
            (Some("desc"), Some("4"), Some("2"), "32", true),
            (Some("asc"), Some("5"), None, "", false),
        ] {
            let page = page(items(), order, after, limit).unwrap();
            assert_eq!((ids(&page).as_str(), &page["has_more"]), (expected, &json!(more)));
        }
        for (order, after, limit) in [(Some("up"), None, None), (None, Some("x"), None), (None, None, Some("0"))] {
            assert!(page(items(), order, after, limit).is_err());
        }
    }
}

//! The fields of a request's body, taken one by one so that every fault names its parameter.

use std::{collections::HashSet, ops::RangeInclusive, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{error::ApiError, openapi::requests::field_names};

/// Longest part of a message that may hold what was sent, characters.
const FAULT_CHARS_MAX: usize = 300;

/// Fields that no dialect passes to chats as they are.
const NEVER_PASSED: [&str; 12] = [
    "messages",
    "tools",
    "tool_choice",
    "metadata",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "n",
    "best_of",
    "user",
    "request_id",
];

/// A JSON object, and another whose entries count where the first is silent. `null` is the same as absent.
#[derive(Debug, Default)]
pub struct Fields {
    body: Map<String, Value>,
    fallback: Map<String, Value>,
    /// The fields that /openapi.json tells of; none where nobody looks.
    documented: Option<Arc<HashSet<String>>>,
}

impl Fields {
    /// Reads a body. It must be a JSON object.
    pub fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        let value = serde_json::from_slice(bytes).map_err(|error| not_json(bytes, &error))?;
        match value {
            Value::Object(body) => Ok(Self::of(body)),
            _ => Err(ApiError::bad_body("the request body must be a JSON object")),
        }
    }

    /// An object that was read before.
    pub fn of(body: Map<String, Value>) -> Self {
        Self { body, fallback: Map::new(), documented: None }
    }

    /// Makes sure, where the server is built for tests, that every field that is read is described by `T`.
    pub fn described_by<T: ToSchema + 'static>(mut self) -> Self {
        if cfg!(debug_assertions) {
            self.documented = Some(field_names::<T>());
        }
        self
    }

    fn expect_documented(&self, name: &str) {
        let known = self.documented.as_ref().is_none_or(|names| names.contains(name));
        debug_assert!(known, "the field `{name}` is read, but src/api/openapi/requests doesn't describe it");
    }

    /// The object itself.
    pub fn into_body(self) -> Map<String, Value> {
        self.body
    }

    /// A dialect's fields as a chat's; those of `chat` were put into its words before. All others pass as they are (those that
    /// both protocols have, and those that chats have beyond them, such as `seed` and `chat_template_kwargs`), but for what
    /// means something else in chats, or nothing in the dialect: some in every dialect, and its `own`.
    pub fn into_chat(self, mut chat: Map<String, Value>, own: &[&str]) -> Fields {
        let passes = |name: &str| !NEVER_PASSED.contains(&name) && !own.contains(&name);
        chat.extend(self.into_body().into_iter().filter(|(name, _)| passes(name)));
        Fields::of(chat)
    }

    /// Lets the entries of the field `name`, an object, stand in for fields that are absent.
    pub fn fall_back_on(&mut self, name: &str) -> Result<(), ApiError> {
        if let Some(fallback) = self.get::<Map<String, Value>>(name)? {
            self.fallback = fallback;
        }
        Ok(())
    }

    /// Puts another value in a field's place.
    pub fn set(&mut self, name: &str, value: Value) {
        self.body.insert(name.to_owned(), value);
    }

    /// The value of a field as it was sent.
    pub fn raw(&self, name: &str) -> Option<&Value> {
        self.expect_documented(name);
        let given = |map: &'_ Map<String, Value>| map.get(name).is_some_and(|value| !value.is_null());
        let map = if given(&self.body) { &self.body } else { &self.fallback };
        map.get(name).filter(|value| !value.is_null())
    }

    /// A field's own value, without the fallback.
    pub fn own(&self, name: &str) -> Option<&Value> {
        self.expect_documented(name);
        self.body.get(name).filter(|value| !value.is_null())
    }

    /// A field of any type that serde knows.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let read = |value: &Value| {
            T::deserialize(value).map_err(|error| {
                // Some of these errors tell the whole value.
                let fault: String = error.to_string().chars().take(FAULT_CHARS_MAX).collect();
                ApiError::invalid(name, format!("`{name}`: {fault}"))
            })
        };
        self.raw(name).map(read).transpose()
    }

    /// A boolean field; absent is false.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.get(name)?.unwrap_or(false))
    }

    /// A number. Its bounds are checked by whoever knows them.
    pub fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        Ok(self.get::<f64>(name)?.map(|number| number as f32))
    }

    /// An integer within `bounds`; `12.0` is one too.
    pub fn integer(&self, name: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        let wanted = match (*bounds.start(), *bounds.end()) {
            (i64::MIN, i64::MAX) => "an integer of at most 64 bits".to_owned(),
            (low, i64::MAX) => format!("an integer >= {low}"),
            (low, high) => format!("an integer between {low} and {high}"),
        };
        match integer(value).filter(|number| bounds.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid(name, format!("`{name}` must be {wanted}, got {}", brief(value)))),
        }
    }

    /// A list of token ids, each below `vocabulary`.
    pub fn token_ids(&self, name: &str, vocabulary: usize) -> Result<Option<Vec<u32>>, ApiError> {
        self.raw(name).map(|value| token_ids(name, value, vocabulary)).transpose()
    }
}

/// The prompts in a field: one is a string or a list of token ids; a list of such is several.
pub fn separate(given: &Value) -> Vec<&Value> {
    match given {
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![given],
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

/// The token ids that `value` lists, each below `vocabulary`.
pub fn token_ids(name: &str, value: &Value, vocabulary: usize) -> Result<Vec<u32>, ApiError> {
    let fault = |what: String| ApiError::invalid(name, format!("`{name}` {what}"));
    let list = value.as_array().ok_or_else(|| fault("must be a list of token ids".into()))?;
    let id = |value: &Value| match integer(value) {
        Some(id) if (0..vocabulary as i64).contains(&id) => Ok(id as u32),
        Some(id) => Err(fault(format!("has the token id {id}; the vocabulary has 0 to {}", vocabulary - 1))),
        None => Err(fault(format!("must hold integers only, got {}", brief(value)))),
    };
    list.iter().map(id).collect()
}

fn integer(value: &Value) -> Option<i64> {
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 9e15;
    value.as_i64().or_else(|| value.as_f64().filter(whole).map(|number| number as i64))
}

/// A value as it may stand in a message.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(_) => "a string".into(),
        other => other.to_string(),
    }
}

/// Names the field at which the JSON broke, so that `"temperature": NaN` is about `temperature`.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let fault = ApiError::bad_body(format!("the request body is not valid JSON: {error}"));
    let line_start = bytes.split_inclusive(|&byte| byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len);
    let position = (line_start.sum::<usize>() + error.column()).min(bytes.len());
    match key_before(&String::from_utf8_lossy(&bytes[..position])) {
        Some(key) => fault.about(key),
        None => fault,
    }
}

/// The last `"key":` of a text, if it is close to the end.
fn key_before(text: &str) -> Option<String> {
    let (before, value) = text.rsplit_once(':')?;
    let key = before.trim_end().strip_suffix('"')?.rsplit('"').next()?;
    let fits = value.len() < 400 && !key.is_empty() && key.len() <= 64;
    fits.then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::read(text.as_bytes()).unwrap()
    }

    fn param(error: ApiError) -> Value {
        error.to_json()["error"]["param"].clone()
    }

    #[test]
    fn broken_json_names_the_field() {
        for (body, name) in [
            (r#"{"temperature": NaN}"#, Some("temperature")),
            ("{\"model\": \"m\",\n \"top_p\": Infinity}", Some("top_p")),
            (r#"{"seed": 1e999}"#, Some("seed")),
            ("", None),
            ("nonsense", None),
            ("[1]", None),
        ] {
            let error = Fields::read(body.as_bytes()).unwrap_err();
            assert_eq!(param(error), name.map_or(Value::Null, Value::from), "{body}");
        }
    }

    #[test]
    fn integers_are_bounded_and_may_be_written_as_floats() {
        let given =
            fields(r#"{"a": 3, "b": 3.0, "c": 3.5, "d": "3", "e": 1e300, "f": null, "g": 18446744073709551615}"#);
        assert_eq!(given.integer("a", 0..=9), Ok(Some(3)));
        assert_eq!(given.integer("b", 0..=9), Ok(Some(3)));
        assert_eq!(given.integer("f", 0..=9), Ok(None));
        for wrong in ["c", "d", "e", "g"] {
            assert_eq!(param(given.integer(wrong, 0..=i64::MAX).unwrap_err()), wrong);
        }
        assert!(given.integer("a", 4..=9).unwrap_err().to_string().contains("between 4 and 9, got 3"));
    }

    #[test]
    fn metadata_stands_in_for_what_is_absent() {
        let mut given = fields(r#"{"top_p": 0.5, "metadata": {"top_p": 0.1, "min_tokens": 4}}"#);
        given.fall_back_on("metadata").unwrap();
        assert_eq!(given.number("top_p"), Ok(Some(0.5)));
        assert_eq!(given.integer("min_tokens", 0..=9), Ok(Some(4)));
        assert!(given.own("min_tokens").is_none());
    }

    #[test]
    fn token_ids_are_within_the_vocabulary() {
        let given = fields(r#"{"good": [0, 9], "high": [10], "negative": [-1], "text": ["a"], "one": 5}"#);
        assert_eq!(given.token_ids("good", 10), Ok(Some(vec![0, 9])));
        for wrong in ["high", "negative", "text", "one"] {
            assert_eq!(param(given.token_ids(wrong, 10).unwrap_err()), wrong);
        }
    }
}

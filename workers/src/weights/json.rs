//! Typed, checked reading of a model's settings: every complaint names file and key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::LoadError;

/// The most bytes that a model's JSON file may have: an index of a thousand layers stays far below.
const BYTES_MAX: u64 = 64 << 20;

/// The most ids in a list of tokens: those that end a text travel to the ranks with every sequence.
const TOKEN_IDS_MAX: usize = 64;

/// How much of a wrong value is shown, characters.
const SHOWN_MAX: usize = 80;

/// The most elements of a list: one per layer, at most.
const LIST_MAX: usize = 1 << 12;

/// A JSON object of a file. An absent key and `null` are the same, as in transformers.
pub(crate) struct Fields {
    path: PathBuf,
    /// Keys that lead to this object, for messages: `rope_scaling.` or nothing.
    prefix: String,
    object: Map<String, Value>,
    /// What the file itself calls a key (with its prefix), where the settings were translated.
    own_keys: Arc<BTreeMap<String, String>>,
}

impl Fields {
    /// Reads the file at `path`, which holds one object.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |cause| LoadError::unreadable(path, &cause);
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > BYTES_MAX {
            return Err(LoadError::corrupt(path, format!("is larger than {BYTES_MAX} bytes")));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Self::translated(path, object, BTreeMap::new())),
            Ok(_) => Err(LoadError::corrupt(path, "must hold a JSON object")),
            Err(fault) => Err(LoadError::corrupt(path, format!("is not valid JSON: {fault}"))),
        }
    }

    /// Settings that stood in the file at `path` under the names `own_keys`.
    pub(crate) fn translated(path: &Path, object: Map<String, Value>, own_keys: BTreeMap<String, String>) -> Self {
        Self { path: path.into(), prefix: String::new(), object, own_keys: Arc::new(own_keys) }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, unless absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A whole number that is not negative.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.typed(key, "a whole number >= 0", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A whole number that must be there.
    pub(crate) fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.required(key, self.count(key)?)
    }

    /// A whole number, or else `default`.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, LoadError> {
        Ok(self.count(key)?.unwrap_or(default))
    }

    /// True or false, or else `default`.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.flag(key)?.unwrap_or(default))
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.typed(key, "a number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Strings, one per layer, say.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, LoadError> {
        self.typed(key, "a list of strings", |value| list(value)?.iter().map(Value::as_str).collect())
    }

    /// Whole numbers that are not negative; none if absent.
    pub(crate) fn counts(&self, key: &str) -> Result<Vec<usize>, LoadError> {
        let count = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let counts =
            self.typed(key, "a list of whole numbers >= 0", |value| list(value)?.iter().map(count).collect())?;
        Ok(counts.unwrap_or_default())
    }

    /// Token ids: one, or a list of them; none if absent.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(key, "a token id or a list of at most 64", |value| match value {
            Value::Array(list) if list.len() > TOKEN_IDS_MAX => None,
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// A nested object.
    pub(crate) fn fields(&self, key: &str) -> Result<Option<Self>, LoadError> {
        let object = self.typed(key, "an object", Value::as_object)?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(object.map(|object| Self {
            path: self.path.clone(),
            prefix,
            object: object.clone(),
            own_keys: self.own_keys.clone(),
        }))
    }

    /// Every entry of this object.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.object.iter()
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, LoadError> {
        value.ok_or_else(|| LoadError::config(&self.path, format!("{} is missing", self.own_key(key))))
    }

    /// A complaint about `key`.
    pub(crate) fn fault(&self, key: &str, must_be: &str) -> LoadError {
        let mut found = self.get(key).map_or("nothing".into(), Value::to_string);
        if let Some((end, _)) = found.char_indices().nth(SHOWN_MAX) {
            found.replace_range(end.., "…");
        }
        LoadError::config(&self.path, format!("{} must be {must_be}, got {found}", self.own_key(key)))
    }

    fn own_key(&self, key: &str) -> String {
        let key = format!("{}{key}", self.prefix);
        self.own_keys.get(&key).cloned().unwrap_or(key)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        must_be: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.fault(key, must_be))
    }
}

fn list(value: &Value) -> Option<&Vec<Value>> {
    value.as_array().filter(|list| list.len() <= LIST_MAX)
}

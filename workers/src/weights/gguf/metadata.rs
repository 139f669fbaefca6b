//! A GGUF file's settings: keys with typed values.

use std::collections::BTreeMap;

use super::Cursor;

/// The most keys a file may have; real ones have dozens.
const KEYS_MAX: u64 = 1 << 16;
/// The most array elements of a whole file. A vocabulary of 262,144 tokens with scores, types and merges needs a
/// million; the bound keeps a hostile file from taking more memory than its own size many times over.
const ELEMENTS_MAX: usize = 1 << 23;
/// How deep arrays may lie in arrays.
const DEPTH_MAX: usize = 4;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Any unsigned width.
    Unsigned(u64),
    /// Any signed width.
    Signed(i64),
    /// Either float width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// Values of one type.
    Array(Vec<MetadataValue>),
}

/// All settings of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, MetadataValue>);

impl Metadata {
    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.0.get(key)
    }

    /// All keys with their values, in the keys' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A whole number that is not negative, of any width.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match *self.get(key)? {
            MetadataValue::Unsigned(number) => Some(number),
            MetadataValue::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    /// A number of any width, whole ones included.
    pub fn float(&self, key: &str) -> Option<f64> {
        match *self.get(key)? {
            MetadataValue::Float(number) => Some(number),
            MetadataValue::Unsigned(number) => Some(number as f64),
            MetadataValue::Signed(number) => Some(number as f64),
            _ => None,
        }
    }

    /// True or false.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        match *self.get(key)? {
            MetadataValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A string.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn array(&self, key: &str) -> Option<&[MetadataValue]> {
        match self.get(key)? {
            MetadataValue::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// An array of strings, such as `tokenizer.ggml.tokens`.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        self.array(key)?.iter().map(MetadataValue::as_str).collect()
    }

    /// An array of whole numbers, such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        let integer = |element: &MetadataValue| match *element {
            MetadataValue::Signed(number) => Some(number),
            MetadataValue::Unsigned(number) => i64::try_from(number).ok(),
            _ => None,
        };
        self.array(key)?.iter().map(integer).collect()
    }

    /// Reads `count` keys with their values.
    pub(super) fn read(cursor: &mut Cursor, count: u64) -> Result<Self, String> {
        if count > KEYS_MAX {
            return Err(format!("is corrupt: {count} metadata keys, at most {KEYS_MAX} are read"));
        }
        let mut reader = Reader { cursor, elements_left: ELEMENTS_MAX };
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let key = reader.cursor.string()?.to_owned();
            let kind = reader.cursor.u32()?;
            let value = reader.value(kind, 0).map_err(|fault| format!("{fault} (metadata key {key})"))?;
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("is corrupt: metadata key {key} comes twice"));
            }
        }
        Ok(Self(values))
    }
}

impl MetadataValue {
    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Values of a file, with a budget for the elements of its arrays.
struct Reader<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    elements_left: usize,
}

impl Reader<'_, '_> {
    /// One value of the format's type number `kind`, inside `depth` arrays.
    fn value(&mut self, kind: u32, depth: usize) -> Result<MetadataValue, String> {
        use MetadataValue::{Array, Bool, Float, Signed, String, Unsigned};
        let cursor = &mut *self.cursor;
        Ok(match kind {
            0 => Unsigned(u8::from_le_bytes(cursor.array()?).into()),
            1 => Signed(i8::from_le_bytes(cursor.array()?).into()),
            2 => Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            3 => Signed(i16::from_le_bytes(cursor.array()?).into()),
            4 => Unsigned(cursor.u32()?.into()),
            5 => Signed(i32::from_le_bytes(cursor.array()?).into()),
            6 => Float(f32::from_le_bytes(cursor.array()?).into()),
            7 => Bool(u8::from_le_bytes(cursor.array()?) != 0),
            8 => String(cursor.string()?.into()),
            9 => Array(self.elements(depth)?),
            10 => Unsigned(cursor.u64()?),
            11 => Signed(i64::from_le_bytes(cursor.array()?)),
            12 => Float(f64::from_le_bytes(cursor.array()?)),
            _ => return Err(format!("is corrupt: metadata type {kind} at byte {} is unknown", cursor.position())),
        })
    }

    fn elements(&mut self, depth: usize) -> Result<Vec<MetadataValue>, String> {
        let kind = self.cursor.u32()?;
        let count = usize::try_from(self.cursor.u64()?).unwrap_or(usize::MAX);
        // The smallest element has one byte, so a count beyond the rest of the file is a lie told before any reading.
        if count > self.cursor.remaining() {
            return Err(format!("is truncated or corrupt: an array of {count} elements does not fit into it"));
        }
        if count > self.elements_left || depth == DEPTH_MAX {
            return Err(format!("has arrays too large to be a model's: {count} elements, {depth} arrays deep"));
        }
        self.elements_left -= count;
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }
}

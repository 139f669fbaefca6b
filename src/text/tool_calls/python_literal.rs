//! Python's literals as JSON.

use serde_json::{Map, Number, Value};

/// Deeper nesting is not followed.
const DEPTH_MAX: usize = 64;

/// The JSON of a literal: a string, number, word, list, tuple or dict. None where it is something else.
pub(crate) fn to_json(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        match self.rest.chars().next().filter(|_| depth < DEPTH_MAX)? {
            '"' | '\'' => self.string().map(Value::from),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => self.dict(depth),
            _ => self.word(),
        }
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn skip(&mut self, character: char) -> bool {
        self.space();
        let found = self.rest.strip_prefix(character);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.skip(open);
        let mut list = Vec::new();
        while !self.skip(close) {
            list.push(self.value(depth + 1)?);
            if !self.skip(',') {
                return self.skip(close).then(|| list.into());
            }
        }
        Some(list.into())
    }

    fn dict(&mut self, depth: usize) -> Option<Value> {
        self.skip('{');
        let mut entries = Map::new();
        while !self.skip('}') {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            let value = if self.skip(':') { self.value(depth + 1)? } else { return None };
            entries.insert(key, value);
            if !self.skip(',') {
                return self.skip('}').then(|| entries.into());
            }
        }
        Some(entries.into())
    }

    fn word(&mut self) -> Option<Value> {
        let end = |character: char| !(character.is_ascii_alphanumeric() || "+-._".contains(character));
        let (word, rest) = self.rest.split_at(self.rest.find(end).unwrap_or(self.rest.len()));
        self.rest = rest;
        match word {
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            "None" | "null" => Some(Value::Null),
            _ => number(word),
        }
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let mut characters = self.rest[1..].char_indices();
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => {
                    let character = escape(&mut characters, &mut text)?;
                    text.push(character);
                }
                _ if character == quote => {
                    self.rest = &self.rest[1 + at + 1..];
                    return Some(text);
                }
                _ => text.push(character),
            }
        }
        None
    }
}

/// The character that an escape stands for. An unknown one keeps its backslash, as in Python.
fn escape(characters: &mut std::str::CharIndices<'_>, text: &mut String) -> Option<char> {
    let (_, kind) = characters.next()?;
    let digits = match kind {
        'n' => return Some('\n'),
        't' => return Some('\t'),
        'r' => return Some('\r'),
        '\\' | '\'' | '"' => return Some(kind),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => {
            text.push('\\');
            return Some(kind);
        }
    };
    let code: String = characters.by_ref().take(digits).map(|(_, digit)| digit).collect();
    char::from_u32(u32::from_str_radix(&code, 16).ok()?)
}

fn number(word: &str) -> Option<Value> {
    let plain = word.replace('_', "");
    if let Ok(integer) = plain.parse::<i64>() {
        return Some(integer.into());
    }
    let is_number = plain.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    Number::from_f64(plain.parse().ok().filter(|_| is_number)?).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_json() {
        for (literal, json) in [
            ("'it\\'s \\x41\\u00e9'", r#""it's Aé""#),
            (r#""a\nb""#, r#""a\nb""#),
            ("[1, -2.5, True, None,]", "[1,-2.5,true,null]"),
            ("(1, 'a')", r#"[1,"a"]"#),
            ("{'k': {'n': 1_000}, 2: []}", r#"{"2":[],"k":{"n":1000}}"#),
            (" 1e3 ", "1000.0"),
        ] {
            let found =
                to_json(literal).map(|value| serde_json::from_str::<Value>(json).is_ok_and(|json| json == value));
            assert_eq!(found, Some(true), "{literal} → {:?}", to_json(literal));
        }
        for wrong in ["", "open(", "[1", "'a", "a b", "inf", "__import__('os')", "1 + 1", "{1}", "'\\u12'"] {
            assert_eq!(to_json(wrong), None, "{wrong}");
        }
    }
}

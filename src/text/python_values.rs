//! Values written as Python writes them. Chat templates are made for Jinja on Python, and a model has seen what that
//! wrote: `True`, not `true`; `1e-05`, not `1e-5`.

use std::cell::Cell;

use minijinja::value::{Value, ValueKind};

use super::tokenizer::TEXT_BYTES_MAX;

/// How JSON is laid out: the arguments of `json.dumps` that templates use.
#[derive(Debug, Clone)]
pub struct JsonLayout {
    /// Spaces per level on lines of their own; none: all on one line.
    pub indent: Option<usize>,
    /// Between items and between key and value.
    pub separators: (String, String),
    /// Other than ASCII characters as `\uNNNN`.
    pub ascii_only: bool,
    /// Keys in their order as texts, not as given.
    pub sorted: bool,
}

impl JsonLayout {
    /// Python's default for this indent.
    pub fn with_indent(indent: Option<usize>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Self { indent, separators: (item.into(), ": ".into()), ascii_only: false, sorted: false }
    }
}

/// `json.dumps(value, ensure_ascii=False, …)`: no escapes for `<`, `>`, `&`, `'`, which Jinja's own filter would write.
pub fn to_json(value: &Value, layout: &JsonLayout) -> Result<String, String> {
    let mut writer = JsonWriter { out: String::new(), layout, depth: 0 };
    writer.write(value)?;
    Ok(writer.out)
}

/// `str(value)`.
pub fn to_text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.into(),
        None => repr(value, 0, &Cell::new(TEXT_BYTES_MAX)),
    }
}

/// Deeper values are cut short rather than overflowing the stack.
const DEPTH_MAX: usize = 200;

struct JsonWriter<'a> {
    out: String,
    layout: &'a JsonLayout,
    depth: usize,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value) -> Result<(), String> {
        if self.depth > DEPTH_MAX {
            return Err(format!("values nested deeper than {DEPTH_MAX} can't be written as JSON"));
        }
        if self.out.len() > TEXT_BYTES_MAX {
            return Err(format!("a value takes more than {TEXT_BYTES_MAX} bytes as JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value)?,
            ValueKind::Map => self.object(value)?,
            kind => return Err(format!("a value of type {kind} can't be written as JSON")),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value) -> Result<(), String> {
        let items: Vec<_> = value.try_iter().map_err(|error| error.to_string())?.collect();
        self.nested('[', ']', &items, |writer, item| writer.write(item))
    }

    fn object(&mut self, value: &Value) -> Result<(), String> {
        let mut keys: Vec<_> = value.try_iter().map_err(|error| error.to_string())?.collect();
        if self.layout.sorted {
            keys.sort_by_key(to_text);
        }
        self.nested('{', '}', &keys, |writer, key| {
            writer.text(&json_key(key));
            writer.out.push_str(&writer.layout.separators.1);
            writer.write(&value.get_item(key).map_err(|error| error.to_string())?)
        })
    }

    fn nested(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), String>,
    ) -> Result<(), String> {
        self.out.push(open);
        self.depth += 1;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.layout.separators.0);
            }
            self.new_line();
            write(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.new_line();
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self) {
        if let Some(indent) = self.layout.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * self.depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                letter if letter < ' ' || (self.layout.ascii_only && letter > '~') => self.escape(letter),
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, letter: char) {
        for unit in letter.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

/// A key that isn't a text is written as JSON writes the value.
fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => key.is_true().to_string(),
        _ => to_text(key),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_text(float),
        _ => value.to_string(),
    }
}

/// `repr(float)`: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
fn float_text(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() {
            "NaN"
        } else if float > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if float != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => format!("{float:?}"),
    }
}

/// `repr(value)`.
fn repr(value: &Value, depth: usize, left: &Cell<usize>) -> String {
    // A value that holds another twice, which holds a third twice, is small but endless when written.
    let cost = 1 + value.as_str().map_or(0, str::len);
    if depth > DEPTH_MAX || left.get() < cost {
        return "...".into();
    }
    left.set(left.get() - cost);
    let inner = |value: &Value| repr(value, depth + 1, left);
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value).replace("NaN", "nan").replace("Infinity", "inf"),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => format!("[{}]", items(value).iter().map(inner).collect::<Vec<_>>().join(", ")),
        ValueKind::Map => {
            let pair = |key: &Value| format!("{}: {}", inner(key), inner(&value.get_item(key).unwrap_or_default()));
            format!("{{{}}}", items(value).iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

/// Single quotes, unless the text has some and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter < ' ' || letter == '\u{7f}' => out.push_str(&format!("\\x{:02x}", letter as u32)),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn value(json: serde_json::Value) -> Value {
        Value::from(Serde(json))
    }

    /// The expected texts are Python's.
    #[test]
    fn json_is_pythons() {
        let given = value(
            json!({"b": [1, 2.5, 1e-5, 1e16, 100000.0], "a": "<'é\u{1}\n\">", "c": {}, "d": [], "e": null, "f": true}),
        );
        let plain = to_json(&given, &JsonLayout::with_indent(None)).unwrap();
        assert_eq!(
            plain,
            r#"{"b": [1, 2.5, 1e-05, 1e+16, 100000.0], "a": "<'é\u0001\n\">", "c": {}, "d": [], "e": null, "f": true}"#
        );
        let indented = to_json(&value(json!({"a": [1, {"b": 2}]})), &JsonLayout::with_indent(Some(2))).unwrap();
        assert_eq!(indented, "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ]\n}");
        let layout = JsonLayout { ascii_only: true, sorted: true, ..JsonLayout::with_indent(None) };
        assert_eq!(
            to_json(&value(json!({"b": "é😀", "a": 1})), &layout).unwrap(),
            r#"{"a": 1, "b": "\u00e9\ud83d\ude00"}"#
        );
    }

    #[test]
    fn text_is_pythons() {
        for (given, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(1.0), "1.0"),
            (json!(-0.00001), "-1e-05"),
            (json!("a'b"), "a'b"),
            (json!(["a'b", "a\"'", "x\n"]), r#"["a'b", 'a"\'', 'x\n']"#),
            (json!({"k": [null, false, 2]}), "{'k': [None, False, 2]}"),
        ] {
            assert_eq!(to_text(&value(given)), expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = Value::from(1);
        for _ in 0..1000 {
            deep = Value::from(vec![deep]);
        }
        assert!(to_json(&deep, &JsonLayout::with_indent(None)).is_err());
        assert!(to_text(&deep).contains("..."));
    }
}

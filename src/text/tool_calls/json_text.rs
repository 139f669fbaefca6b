//! Follows JSON character by character, without keeping it.

/// Deeper nesting is not followed.
const DEPTH_MAX: usize = 256;

/// Where one JSON value ends. Strings and brackets are followed exactly, numbers and words only roughly.
#[derive(Debug, Default)]
pub(crate) struct JsonValue {
    /// Closing brackets that are still to come.
    open: Vec<char>,
    place: Place,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Between,
    Word,
    String,
    Escape,
}

/// What a character means to a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It belongs to the value.
    Inside,
    /// It is the value's last.
    Last,
    /// The value had ended before it.
    Behind,
    /// No JSON goes on like this.
    Wrong,
}

impl JsonValue {
    /// Whether the value has begun.
    pub fn has_begun(&self) -> bool {
        self.place != Place::Before
    }

    /// The next character; white space before the value counts as inside.
    pub fn step(&mut self, character: char) -> Step {
        match (&self.place, character) {
            (Place::Escape, _) => self.go(Place::String),
            (Place::String, '\\') => self.go(Place::Escape),
            (Place::String, '"') if self.open.is_empty() => Step::Last,
            (Place::String, '"') => self.go(Place::Between),
            (Place::String, _) => Step::Inside,
            (Place::Word, ',' | '}' | ']' | ' ' | '\n' | '\r' | '\t') if self.open.is_empty() => Step::Behind,
            (Place::Before, ' ' | '\n' | '\r' | '\t') => Step::Inside,
            (_, '"') => self.go(Place::String),
            (_, '{') => self.nest('}'),
            (_, '[') => self.nest(']'),
            (_, '}' | ']') => self.close(character),
            (Place::Before, ',' | ':') => Step::Wrong,
            (_, ',' | ':' | ' ' | '\n' | '\r' | '\t') if !self.open.is_empty() => self.go(Place::Between),
            (_, '+' | '-' | '.') => self.go(Place::Word),
            (_, word) if word.is_ascii_alphanumeric() => self.go(Place::Word),
            _ => Step::Wrong,
        }
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::Inside
    }

    fn nest(&mut self, closing: char) -> Step {
        if self.open.len() == DEPTH_MAX || (self.place == Place::Word && self.open.is_empty()) {
            return Step::Wrong;
        }
        self.open.push(closing);
        self.go(Place::Between)
    }

    fn close(&mut self, bracket: char) -> Step {
        if self.open.pop() != Some(bracket) {
            return Step::Wrong;
        }
        self.place = Place::Between;
        if self.open.is_empty() { Step::Last } else { Step::Inside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_it_ends() {
        for (text, expected) in [
            (r#"{"a": "}\"]", "b": [1, {}]}, "#, Some((26, Step::Last))),
            (r#""a\\" x"#, Some((4, Step::Last))),
            ("12.5e-3, 4", Some((7, Step::Behind))),
            ("true}", Some((4, Step::Behind))),
            (" [1,2", None),
            ("{]", Some((1, Step::Wrong))),
            (",", Some((0, Step::Wrong))),
            ("{<", Some((1, Step::Wrong))),
        ] {
            let mut value = JsonValue::default();
            let mut steps = text.char_indices().map(|(at, character)| (at, value.step(character)));
            assert_eq!(steps.find(|(_, step)| *step != Step::Inside), expected, "{text}");
        }
    }
}

//! Calls written as JSON objects with a name and arguments, one, several in a row, or a list.

use std::{mem, sync::Arc};

use super::{
    CallReader, Read, Tools,
    json_text::{JsonValue, Step},
};
use crate::text::message::parts::Parts;

/// Reads `{"name": …, "arguments": {…}}`. Arguments are handed on as they stand, from the moment the name is known; where
/// they are a JSON string (which some models write), its text is.
///
/// A text that isn't such an object is no call; once a call's arguments have begun, what breaks off stays broken off.
#[derive(Debug)]
pub(crate) struct JsonReader {
    /// Only these names are calls.
    only: Option<Arc<Tools>>,
    in_list: bool,
    state: State,
    /// The object's text while it may turn out to be none.
    text: String,
    /// The object's name, once it is known.
    name: Option<String>,
    /// The object's arguments, where they came before the name.
    early: Option<String>,
    /// Objects inside the object that are read as the object itself: `{"function": {…}}`.
    nested: usize,
    /// Whether the object's call was handed on.
    called: bool,
    /// Whether any call was.
    any: bool,
}

#[derive(Debug)]
enum State {
    /// Before an object.
    Outside,
    /// Before a key or the end; `first` where a comma has no place.
    Key { first: bool },
    /// In a key.
    InKey(String, JsonValue),
    /// Before the colon.
    Colon(Field),
    /// In the value of a field, whose text is kept if it is still needed.
    Value(Field, JsonValue, String),
    /// Behind a value.
    Behind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Function,
    Other,
}

/// What a character brought.
enum Took {
    It,
    /// It, and it ended a call.
    Call,
    /// It, and nothing follows.
    End,
    /// It belongs to what follows the calls.
    NotIt,
    /// No object goes on like this.
    Wrong,
}

impl JsonReader {
    /// A reader before the first object or list; a call needs one of the names of `only`.
    pub fn new(only: Option<Arc<Tools>>) -> Self {
        Self {
            only,
            in_list: false,
            state: State::Outside,
            text: String::new(),
            name: None,
            early: None,
            nested: 0,
            called: false,
            any: false,
        }
    }

    /// A reader behind the bracket that opens a list.
    pub fn in_list() -> Self {
        Self { in_list: true, ..Self::new(None) }
    }

    fn take(&mut self, character: char, parts: &mut Parts) -> Took {
        match mem::replace(&mut self.state, State::Outside) {
            State::Outside => self.outside(character),
            State::Value(field, value, text) => self.value(field, value, text, character, parts),
            state => self.between(state, character, parts),
        }
    }

    fn outside(&mut self, character: char) -> Took {
        match character {
            ' ' | '\n' | '\r' | '\t' => Took::It,
            ',' if self.in_list => Took::It,
            ';' => Took::It,
            '[' if !self.in_list => {
                self.in_list = true;
                Took::It
            }
            ']' if self.in_list => Took::End,
            '{' => {
                self.state = State::Key { first: true };
                Took::It
            }
            _ => Took::NotIt,
        }
    }

    fn between(&mut self, state: State, character: char, parts: &mut Parts) -> Took {
        let space = matches!(character, ' ' | '\n' | '\r' | '\t');
        self.state = match (state, character) {
            (State::InKey(mut text, mut value), _) => {
                text.push(character);
                match value.step(character) {
                    Step::Inside => State::InKey(text, value),
                    Step::Last => match self.field(&text) {
                        Some(field) => State::Colon(field),
                        None => return Took::Wrong,
                    },
                    Step::Behind | Step::Wrong => return Took::Wrong,
                }
            }
            (state, _) if space => state,
            (State::Key { .. }, '"') => {
                let mut value = JsonValue::default();
                value.step('"');
                State::InKey("\"".into(), value)
            }
            (State::Key { first: true }, '}') | (State::Behind, '}') => return self.close(parts),
            (State::Colon(field), ':') => State::Value(field, JsonValue::default(), String::new()),
            (State::Behind, ',') => State::Key { first: false },
            _ => return Took::Wrong,
        };
        Took::It
    }

    /// What a key stands for. Without a mark, an object with other keys is an ordinary answer.
    fn field(&self, key: &str) -> Option<Field> {
        match key {
            // What was handed on is not changed by what comes behind it.
            _ if self.called => Some(Field::Other),
            "\"name\"" => Some(Field::Name),
            "\"arguments\"" | "\"parameters\"" => Some(Field::Arguments),
            "\"function\"" => Some(Field::Function),
            "\"type\"" | "\"id\"" => Some(Field::Other),
            _ => self.only.is_none().then_some(Field::Other),
        }
    }

    fn value(
        &mut self,
        field: Field,
        mut value: JsonValue,
        mut text: String,
        character: char,
        parts: &mut Parts,
    ) -> Took {
        if field == Field::Function && character == '{' && !value.has_begun() {
            self.nested += 1;
            self.state = State::Key { first: true };
            return Took::It;
        }
        let begun = value.has_begun();
        let step = value.step(character);
        if matches!(step, Step::Wrong) {
            self.state = State::Value(field, value, text);
            return Took::Wrong;
        }
        let begins = !begun && value.has_begun();
        if begins && field == Field::Arguments && character == '{' && self.name.is_some() {
            self.call(parts);
        }
        if step != Step::Behind && value.has_begun() {
            match self.called && field == Field::Arguments && self.early.is_none() {
                true => parts.arguments(character.encode_utf8(&mut [0; 4])),
                false => text.push(character),
            }
        }
        if step == Step::Inside {
            self.state = State::Value(field, value, text);
            return Took::It;
        }
        match (self.settle(field, text), step) {
            (false, _) => Took::Wrong,
            (true, Step::Behind) => self.between(State::Behind, character, parts),
            (true, _) => {
                self.state = State::Behind;
                Took::It
            }
        }
    }

    /// A value is complete; whether it can be one of a call.
    fn settle(&mut self, field: Field, text: String) -> bool {
        match field {
            Field::Name | Field::Function => match serde_json::from_str::<String>(&text) {
                Ok(name) if self.only.as_ref().is_none_or(|tools| tools.has(&name)) && !name.is_empty() => {
                    self.name = Some(name);
                    true
                }
                _ => false,
            },
            Field::Arguments if !self.called => {
                self.early = Some(text);
                true
            }
            Field::Arguments | Field::Other => true,
        }
    }

    fn close(&mut self, parts: &mut Parts) -> Took {
        if self.nested > 0 {
            self.nested -= 1;
            self.state = State::Behind;
            return Took::It;
        }
        if !self.called {
            if self.name.is_none() {
                return Took::Wrong;
            }
            let early = self.early.take();
            self.call(parts);
            parts.arguments(&early.map_or("{}".into(), arguments_of));
        }
        self.forget();
        Took::Call
    }

    fn call(&mut self, parts: &mut Parts) {
        parts.call(self.name.as_deref().unwrap_or_default());
        (self.called, self.any) = (true, true);
        self.text.clear();
    }

    fn forget(&mut self) {
        *self = Self { in_list: self.in_list, any: self.any, ..Self::new(self.only.take()) };
    }

    /// The text of an object that is none, unless it was handed on already.
    fn give_back(&mut self) -> String {
        let text = mem::take(&mut self.text);
        self.forget();
        text
    }
}

/// Arguments that stand in a string are its text; none are an empty object.
fn arguments_of(value: String) -> String {
    if value == "null" {
        return "{}".into();
    }
    serde_json::from_str::<String>(&value).unwrap_or(value)
}

impl CallReader for JsonReader {
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read {
        for (at, character) in text.char_indices() {
            let after = at + character.len_utf8();
            match self.take(character, parts) {
                Took::It if self.called => {}
                Took::It => self.text.push(character),
                Took::Call => {
                    parts.end_call();
                    return Read::More(after);
                }
                Took::End if self.any => return Read::Done(after),
                Took::NotIt if self.text.trim().is_empty() => return Read::Done(at),
                Took::NotIt => return Read::NoCall(at, self.give_back()),
                // A bracket that closed what is no call belongs to its text; other characters may begin something new.
                Took::Wrong if character != '}' || self.called => return Read::NoCall(at, self.give_back()),
                Took::End | Took::Wrong => {
                    self.text.push(character);
                    return Read::NoCall(after, self.give_back());
                }
            }
        }
        Read::More(text.len())
    }

    fn finish(&mut self, _: &mut Parts) -> String {
        self.give_back()
    }
}

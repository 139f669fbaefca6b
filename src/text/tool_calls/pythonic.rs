//! Calls written as Python's: `[name(argument=1), other()]`.

use std::{mem, sync::Arc};

use serde_json::Value;

use super::{CallReader, Read, Tools, python_literal};
use crate::text::message::{flow::is_space, parts::Parts};

/// A name longer than this is none, bytes.
const NAME_BYTES_MAX: usize = 512;

/// Reads calls in a list or in a row. Each argument is handed on when its literal is complete; one that is no literal is
/// handed on as a string of its text.
#[derive(Debug)]
pub(crate) struct PythonicReader {
    /// Only these names are calls.
    only: Option<Arc<Tools>>,
    in_list: bool,
    state: State,
    /// What may turn out to be no call.
    text: String,
    any_call: bool,
    any_argument: bool,
}

#[derive(Debug)]
enum State {
    /// Before a name.
    Outside,
    Name(String),
    /// Before an argument or the end.
    Arguments,
    Key(String),
    Value(Literal),
}

/// An argument's text and where in it we are.
#[derive(Debug, Default)]
struct Literal {
    text: String,
    depth: usize,
    quote: Option<char>,
    escaped: bool,
}

/// What a character brought.
enum Took {
    It,
    Call,
    End,
    NotIt,
}

impl PythonicReader {
    /// A reader before the list; a call needs one of the names of `only`.
    pub fn new(only: Option<Arc<Tools>>) -> Self {
        Self { only, in_list: false, state: State::Outside, text: String::new(), any_call: false, any_argument: false }
    }

    fn take(&mut self, character: char, parts: &mut Parts) -> Took {
        match mem::replace(&mut self.state, State::Outside) {
            State::Outside => self.outside(character),
            State::Name(name) => self.name(name, character, parts),
            State::Arguments => self.argument(character, parts),
            State::Key(key) => self.key(key, character, parts),
            State::Value(literal) => self.value(literal, character, parts),
        }
    }

    fn outside(&mut self, character: char) -> Took {
        match character {
            '[' if !self.in_list && !self.any_call => self.in_list = true,
            ']' if self.in_list => return Took::End,
            ',' if self.any_call => {}
            _ if is_space(character) => {}
            _ if character.is_alphabetic() || character == '_' => self.state = State::Name(character.into()),
            _ => return Took::NotIt,
        }
        Took::It
    }

    fn name(&mut self, mut name: String, character: char, parts: &mut Parts) -> Took {
        match character {
            '(' if self.only.as_ref().is_none_or(|tools| tools.has(&name)) => {
                parts.call(&name);
                parts.arguments("{");
                (self.any_call, self.any_argument) = (true, false);
                self.text.clear();
                self.state = State::Arguments;
                Took::It
            }
            _ if name.len() < NAME_BYTES_MAX && is_of_name(character) => {
                name.push(character);
                self.state = State::Name(name);
                Took::It
            }
            _ => Took::NotIt,
        }
    }

    fn argument(&mut self, character: char, parts: &mut Parts) -> Took {
        match character {
            ')' => {
                parts.arguments("}");
                return Took::Call;
            }
            _ if is_space(character) || character == ',' => self.state = State::Arguments,
            _ if character.is_alphabetic() || character == '_' => self.state = State::Key(character.into()),
            // Arguments without a name have no place in a JSON object.
            _ => return Took::NotIt,
        }
        Took::It
    }

    fn key(&mut self, mut key: String, character: char, parts: &mut Parts) -> Took {
        match character {
            '=' => {
                let comma = if mem::replace(&mut self.any_argument, true) { ", " } else { "" };
                parts.arguments(&format!("{comma}{}: ", Value::from(key.trim_end())));
                self.state = State::Value(Literal::default());
            }
            _ if is_of_name(character) || is_space(character) => {
                key.push(character);
                self.state = State::Key(key);
            }
            _ => return Took::NotIt,
        }
        Took::It
    }

    fn value(&mut self, mut literal: Literal, character: char, parts: &mut Parts) -> Took {
        if literal.ends_before(character) {
            parts.arguments(&json_of(&literal.text));
            return self.argument(character, parts);
        }
        self.state = State::Value(literal);
        Took::It
    }
}

impl Literal {
    /// Takes a character, unless it stands behind the literal.
    fn ends_before(&mut self, character: char) -> bool {
        match (self.quote, character) {
            _ if self.escaped => self.escaped = false,
            (Some(_), '\\') => self.escaped = true,
            (Some(quote), _) if quote == character => self.quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => self.quote = Some(character),
            (None, '(' | '[' | '{') => self.depth += 1,
            (None, ',' | ')') if self.depth == 0 => return true,
            (None, ')' | ']' | '}') => self.depth = self.depth.saturating_sub(1),
            (None, _) => {}
        }
        self.text.push(character);
        false
    }
}

impl CallReader for PythonicReader {
    fn read(&mut self, text: &str, parts: &mut Parts) -> Read {
        for (at, character) in text.char_indices() {
            let after = at + character.len_utf8();
            let in_call = matches!(self.state, State::Arguments | State::Key(_) | State::Value(_));
            match self.take(character, parts) {
                Took::It if !in_call && !matches!(self.state, State::Arguments) => self.text.push(character),
                Took::It => {}
                Took::Call => {
                    parts.end_call();
                    return Read::More(after);
                }
                Took::End if self.any_call => return Read::Done(after),
                Took::End => {
                    self.text.push(character);
                    return Read::NoCall(after, mem::take(&mut self.text));
                }
                Took::NotIt if self.text.trim().is_empty() => return Read::Done(at),
                Took::NotIt => return Read::NoCall(at, mem::take(&mut self.text)),
            }
        }
        Read::More(text.len())
    }

    fn finish(&mut self, _: &mut Parts) -> String {
        mem::take(&mut self.text)
    }
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.')
}

fn json_of(literal: &str) -> String {
    python_literal::to_json(literal).unwrap_or_else(|| Value::from(literal.trim())).to_string()
}

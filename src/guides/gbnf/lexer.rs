//! GBNF's words.

use std::{iter::Peekable, str::Chars};

use super::fault;
use crate::guides::error::GrammarError;

/// A word of a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A rule's name.
    Name(String),
    /// `::=`.
    Defines,
    /// A literal text.
    Text(String),
    /// A set of characters, as a regular expression in Lark's slashes.
    Class(String),
    /// `{1,3}`.
    Times(String),
    /// One of `| ( ) * + ?`.
    Mark(char),
}

/// All words, each with its line, counted from 1.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, GrammarError> {
    let mut lexer = Lexer { rest: text.chars().peekable(), line: 1 };
    let mut tokens = Vec::new();
    while let Some(first) = lexer.next() {
        let line = lexer.line;
        let token = match first {
            '#' => {
                while lexer.next_if(|letter| letter != '\n').is_some() {}
                continue;
            }
            _ if first.is_whitespace() => continue,
            ':' if lexer.skip(':') && lexer.skip('=') => Token::Defines,
            '"' => Token::Text(lexer.text()?),
            '[' => Token::Class(lexer.class()?),
            '.' => Token::Class("/(?s:.)/".into()),
            '{' => Token::Times(lexer.times()?),
            '|' | '(' | ')' | '*' | '+' | '?' => Token::Mark(first),
            _ if first.is_ascii_alphabetic() || first == '_' => Token::Name(lexer.name(first)),
            other => return Err(lexer.fault(&format!("unexpected `{other}`"))),
        };
        tokens.push((line, token));
    }
    Ok(tokens)
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.next()?;
        self.line += usize::from(letter == '\n');
        Some(letter)
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        if self.rest.peek().is_some_and(|&letter| wanted(letter)) { self.next() } else { None }
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.next_if(|letter| letter == wanted).is_some()
    }

    fn fault(&self, what: &str) -> GrammarError {
        fault(self.line, what)
    }

    fn name(&mut self, first: char) -> String {
        let mut name = String::from(first);
        while let Some(letter) = self.next_if(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter)) {
            name.push(letter);
        }
        name
    }

    fn text(&mut self) -> Result<String, GrammarError> {
        let mut text = String::new();
        loop {
            match self.next_if(|letter| letter != '\n') {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escaped()?),
                Some(letter) => text.push(letter),
                None => return Err(self.fault("the text isn't closed")),
            }
        }
    }

    /// `[a-z]` or `[^a-z]`, after the bracket.
    fn class(&mut self) -> Result<String, GrammarError> {
        let mut expression = String::from(if self.skip('^') { "/[^" } else { "/[" });
        let begins = expression.len();
        while !self.skip(']') {
            let first = self.member()?;
            expression.push_str(&plain(first));
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|letter| letter != ']') {
                self.next();
                let last = self.member()?;
                if last < first {
                    return Err(self.fault(&format!("the range {first}-{last} is upside down")));
                }
                expression.push('-');
                expression.push_str(&plain(last));
            }
        }
        if expression.len() == begins {
            return Err(self.fault("the character class is empty"));
        }
        expression.push_str("]/");
        Ok(expression)
    }

    fn member(&mut self) -> Result<char, GrammarError> {
        match self.next_if(|letter| letter != '\n') {
            Some('\\') => self.escaped(),
            Some(letter) => Ok(letter),
            None => Err(self.fault("the character class isn't closed")),
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, GrammarError> {
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('x') => self.code('x', 2),
            Some('u') => self.code('u', 4),
            Some('U') => self.code('U', 8),
            Some(letter) if letter.is_ascii_punctuation() => Ok(letter),
            Some(letter) => Err(self.fault(&format!("`\\{letter}` is no escape"))),
            None => Err(self.fault("it ends with a backslash")),
        }
    }

    fn code(&mut self, kind: char, digits: usize) -> Result<char, GrammarError> {
        let read: String = (0..digits).map_while(|_| self.next_if(|letter| letter.is_ascii_hexdigit())).collect();
        let code = u32::from_str_radix(&read, 16).ok().filter(|_| read.len() == digits).and_then(char::from_u32);
        code.ok_or_else(|| self.fault(&format!("`\\{kind}` needs {digits} hexadecimal digits of a character")))
    }

    /// `{2}`, `{2,}`, `{2,3}`, after the brace.
    fn times(&mut self) -> Result<String, GrammarError> {
        let mut times = String::from("{");
        while let Some(letter) = self.next_if(|letter| letter.is_ascii_digit() || letter == ',' || letter == ' ') {
            if letter != ' ' {
                times.push(letter);
            }
        }
        let is_well_formed = times.len() > 1 && times.matches(',').count() <= 1 && self.skip('}');
        if !is_well_formed {
            return Err(self.fault("a repetition is written {2}, {2,} or {2,3}"));
        }
        times.push('}');
        Ok(times)
    }
}

/// A character as it may stand in a class of a regular expression.
fn plain(letter: char) -> String {
    if letter.is_ascii_alphanumeric() { letter.to_string() } else { format!("\\x{{{:x}}}", u32::from(letter)) }
}

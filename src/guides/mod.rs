//! What a client may ask of the form of an answer: a JSON schema, a regular expression, a list of choices, a grammar.
//!
//! [`grammar`] says what is wanted, [`tools`] what a forced call of a tool looks like; [`Guides`] compiles it against the
//! model's [`vocabulary`], and [`matching`] follows it, one sequence each, as the engine's [`Guide`]; [`thinking`] goes
//! before it where a model reasons first.
//!
//! [`Guide`]: crate::engine::guide::Guide

#[cfg(test)]
mod tests;

mod error;
mod gbnf;
pub mod grammar;
pub mod matching;
mod schema;
pub mod structural_tag;
pub mod thinking;
pub mod tools;
pub mod vocabulary;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use llguidance::Matcher;

use self::vocabulary::Vocabulary;
use crate::{
    apart::{Apart, Bounds, Unfinished},
    engine::guide::{Guide, GuideError},
    text::{ReasoningFormat, Tokenizer},
};

pub use self::{
    error::GrammarError,
    grammar::{Grammar, Whitespace},
    matching::Matching,
    thinking::{Begins, Thinking},
};

/// What the command line says of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether requests may ask for a form.
    pub is_on: bool,
    /// How JSON is laid out.
    pub whitespace: Whitespace,
}

/// The library descends into a grammar as deep as it is nested; the bounds on a grammar's size keep that within this stack.
const COMPILING: Bounds = Bounds { stack_bytes: 256 << 20, time_max: Duration::from_secs(5), overdue_max: 2 };

/// Compiles grammars for one model. The vocabulary is prepared when the first grammar comes.
pub struct Guides {
    tokenizer: Arc<Tokenizer>,
    /// The model's number of tokens.
    vocabulary_size: usize,
    eos_ids: Vec<u32>,
    settings: Settings,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, String>>,
    compiling: Apart,
}

/// A grammar ready to be followed, any number of times.
#[derive(Clone)]
pub struct Compiled {
    matcher: Arc<Matcher>,
    vocabulary: Arc<Vocabulary>,
}

impl Guides {
    /// For a model with so many tokens, of which `eos_ids` end a text.
    pub fn new(tokenizer: Arc<Tokenizer>, vocabulary_size: usize, eos_ids: &[u32], settings: Settings) -> Self {
        let (eos_ids, vocabulary, compiling) = (eos_ids.to_vec(), OnceLock::new(), Apart::new("grammar", COMPILING));
        Self { tokenizer, vocabulary_size, eos_ids, settings, vocabulary, compiling }
    }

    /// Compiles a grammar; milliseconds for usual ones, at most some seconds. Not for threads that others wait for.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        if !self.settings.is_on {
            return Err(GrammarError::Off);
        }
        let (vocabulary, whitespace, grammar) = (self.vocabulary()?, self.settings.whitespace, grammar.clone());
        let compiled = self.compiling.run(move || {
            let compiled = compile(&vocabulary, &grammar, whitespace)?;
            // Some grammars turn out to be empty only when they are followed.
            let empty = |error: GuideError| GrammarError::refused(format!("no text fits it ({error})"));
            compiled.guide().allowed().map_err(empty)?;
            Ok(compiled)
        });
        compiled.unwrap_or_else(|unfinished| {
            Err(match unfinished {
                Unfinished::Busy | Unfinished::NoThread(_) => GrammarError::Busy,
                Unfinished::Late => {
                    let seconds = COMPILING.time_max.as_secs();
                    GrammarError::refused(format!("it takes more than {seconds} s to compile"))
                }
                Unfinished::Panicked => GrammarError::refused("it is beyond what can be compiled"),
            })
        })
    }

    /// How to follow reasoning that `begins` so, with at most `budget` tokens.
    pub fn thinking(
        &self,
        format: &'static ReasoningFormat,
        begins: Begins,
        budget: Option<u32>,
    ) -> Result<Thinking, GrammarError> {
        Ok(Thinking { vocabulary: self.vocabulary()?, tokenizer: self.tokenizer.clone(), format, begins, budget })
    }

    /// The model's tokens by their bytes.
    pub fn vocabulary(&self) -> Result<Arc<Vocabulary>, GrammarError> {
        let build = || Vocabulary::new(&self.tokenizer, self.vocabulary_size, &self.eos_ids).map(Arc::new);
        self.vocabulary.get_or_init(build).clone().map_err(GrammarError::NoVocabulary)
    }
}

fn compile(vocabulary: &Arc<Vocabulary>, grammar: &Grammar, whitespace: Whitespace) -> Result<Compiled, GrammarError> {
    let parser = vocabulary.parser(grammar.for_library(whitespace)?);
    let parser = parser.map_err(|message| explained(vocabulary, grammar, whitespace, &message))?;
    Ok(Compiled { matcher: Arc::new(Matcher::new(Ok(parser))), vocabulary: vocabulary.clone() })
}

/// The library's message, for a schema with the place that it is about.
fn explained(vocabulary: &Vocabulary, grammar: &Grammar, whitespace: Whitespace, message: &str) -> GrammarError {
    let line = error::one_line(message);
    let Grammar::JsonSchema(schema) = grammar else { return GrammarError::Refused(line) };
    let refusal = |part: &serde_json::Value| {
        let made = vocabulary.parser(grammar::json_schema(part, whitespace));
        made.err().map(|message| error::one_line(&message))
    };
    match schema::place_of_fault(schema, &line, refusal).as_str() {
        "" => GrammarError::Refused(line),
        place => GrammarError::Refused(error::shortened(&format!("{line}, at {place}"))),
    }
}

impl Compiled {
    /// A guide at the beginning of its own sequence.
    pub fn guide(&self) -> Matching {
        Matching::new(self.clone())
    }
}

impl fmt::Debug for Guides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guides").field("vocabulary_size", &self.vocabulary_size).finish_non_exhaustive()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

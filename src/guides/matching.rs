//! A grammar followed token by token.

use llguidance::{Matcher, api::StopReason};
use workers::link::mask::Allowed;

use super::{Compiled, error::one_line};
use crate::engine::guide::{Guide, GuideError};

/// A sequence's place in its grammar.
pub struct Matching {
    grammar: Compiled,
    /// Made when it is first needed: many sequences may wait.
    matcher: Option<Matcher>,
}

impl Matching {
    /// At the beginning of the grammar.
    pub(super) fn new(grammar: Compiled) -> Self {
        Self { grammar, matcher: None }
    }

    fn matcher(&mut self) -> &mut Matcher {
        self.matcher.get_or_insert_with(|| self.grammar.matcher.deep_clone())
    }

    /// Whether a token could come now.
    pub(super) fn accepts(&mut self, token: u32) -> Result<bool, GuideError> {
        let valid = self.matcher().validate_tokens(&[token]);
        valid.map(|count| count == 1).map_err(|error| GuideError(one_line(&error.to_string())))
    }

    /// Nothing may follow but the end.
    fn is_complete(&mut self) -> bool {
        matches!(self.matcher().stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }
}

impl Guide for Matching {
    fn take(&mut self, token: u32) -> Result<(), GuideError> {
        if self.is_complete() {
            // Only an end was allowed, which the grammar need not see.
            return Ok(());
        }
        self.matcher().consume_token(token).map_err(|error| GuideError(one_line(&error.to_string())))
    }

    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        if self.is_complete() {
            return match self.grammar.vocabulary.eos() {
                [] => Err(GuideError("the grammar is complete, but the model has no end-of-sequence token".into())),
                eos => Ok(Allowed::Only(eos.to_vec())),
            };
        }
        let mask = self.matcher().compute_mask().map_err(|error| GuideError(one_line(&error.to_string())))?;
        let known = self.grammar.vocabulary.known_of(mask.as_slice());
        known.map(Allowed::Bits).ok_or_else(|| GuideError("the grammar leaves no token of the vocabulary".into()))
    }
}

//! Reasoning before the answer: a bound on its tokens, and a grammar that applies only after it.

use std::{collections::VecDeque, fmt, sync::Arc};

use workers::link::mask::Allowed;

use super::{Compiled, Matching, vocabulary::Vocabulary};
use crate::{
    engine::guide::{Guide, GuideError},
    text::{ReasoningFormat, Tokenizer},
};

/// How a model's reasoning is to be followed.
#[derive(Clone)]
pub struct Thinking {
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) format: &'static ReasoningFormat,
    pub(super) begins: Begins,
    /// Most tokens of reasoning.
    pub(super) budget: Option<u32>,
}

/// Where a model is in its message when it begins to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// In the middle of its reasoning, which the prompt has opened.
    Thinking,
    /// It opens its reasoning itself, or answers at once.
    Undecided,
}

impl Thinking {
    /// A guide at the beginning of its own sequence: reasoning, then the form.
    pub fn guide(&self, form: Option<&Compiled>) -> Reasoned {
        let state = match self.begins {
            Begins::Thinking => State::Thinking { tokens: 0 },
            Begins::Undecided => State::Undecided,
        };
        Reasoned {
            thinking: self.clone(),
            form: form.cloned(),
            answer: form.map(Compiled::guide),
            answer_fits: true,
            state,
            tail: Vec::new(),
            forced: VecDeque::new(),
        }
    }
}

/// A sequence's place in its reasoning, or in the answer after it.
///
/// Marks are found in the text, not among the tokens: a mark may be one token or several, and these in several ways.
pub struct Reasoned {
    thinking: Thinking,
    form: Option<Compiled>,
    answer: Option<Matching>,
    /// While undecided: whether what was written so far could be the answer's beginning.
    answer_fits: bool,
    state: State,
    /// The last bytes written, in which a mark may have begun.
    tail: Vec<u8>,
    /// What remains of a forced mark.
    forced: VecDeque<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Undecided,
    Thinking { tokens: u32 },
    Answering,
}

impl Guide for Reasoned {
    fn take(&mut self, token: u32) -> Result<(), GuideError> {
        match self.state {
            State::Undecided => self.take_undecided(token),
            State::Thinking { tokens } => {
                self.take_thought(token, tokens);
                Ok(())
            }
            State::Answering => self.answer.as_mut().map_or(Ok(()), |answer| answer.take(token)),
        }
    }

    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        match self.state {
            State::Undecided => self.allowed_undecided(),
            State::Thinking { tokens } if self.thinking.budget.is_some_and(|most| tokens >= most) => self.end_mark(),
            State::Thinking { .. } if self.answer.is_some() => Ok(self.thoughts()),
            State::Thinking { .. } => Ok(Allowed::All),
            State::Answering => self.answer.as_mut().map_or(Ok(Allowed::All), Matching::allowed),
        }
    }
}

impl Reasoned {
    fn take_undecided(&mut self, token: u32) -> Result<(), GuideError> {
        self.tail.extend_from_slice(self.thinking.bytes(token));
        if let Some(answer) = self.answer.as_mut().filter(|_| self.answer_fits) {
            self.answer_fits = answer.accepts(token)?;
            if self.answer_fits {
                answer.take(token)?;
            }
        }
        let text = self.tail.trim_ascii_start();
        let opens = self.thinking.format.open.iter().any(|mark| text.starts_with(mark.as_bytes()));
        if opens {
            self.answer = self.form.as_ref().map(Compiled::guide);
            self.tail.clear();
            self.state = State::Thinking { tokens: 0 };
        } else if !may_open(self.thinking.format, text) {
            self.state = State::Answering;
        }
        Ok(())
    }

    fn take_thought(&mut self, token: u32, tokens: u32) {
        match self.forced.front() {
            Some(&expected) if expected == token => drop(self.forced.pop_front()),
            _ => self.forced.clear(),
        }
        self.tail.extend_from_slice(self.thinking.bytes(token));
        let closed = self.thinking.format.close.iter().any(|mark| position(&self.tail, mark.as_bytes()).is_some());
        if closed {
            self.state = State::Answering;
            return;
        }
        let kept = self.longest_mark().min(self.tail.len());
        self.tail.drain(..self.tail.len() - kept);
        self.state = State::Thinking { tokens: tokens.saturating_add(1) };
    }

    /// What the answer may begin with, or a mark that opens reasoning.
    fn allowed_undecided(&mut self) -> Result<Allowed, GuideError> {
        let Some(answer) = self.answer.as_mut() else { return Ok(Allowed::All) };
        let (mut bits, ends) = match if self.answer_fits { answer.allowed()? } else { Allowed::Only(Vec::new()) } {
            Allowed::Bits(bits) => (bits, Vec::new()),
            Allowed::Only(ends) => (Vec::new(), ends),
            Allowed::All => return Ok(Allowed::All),
        };
        let vocabulary = &self.thinking.vocabulary;
        bits.resize(vocabulary.known().len(), 0);
        // No white space before the mark: if no mark followed it, it would be the answer's, which it may not fit.
        let opens = |id: &u32| may_open(self.thinking.format, &[&self.tail, self.thinking.bytes(*id)].concat());
        for id in vocabulary.ids().filter(opens).chain(ends) {
            bits[id as usize / 32] |= 1 << (id % 32);
        }
        Ok(Allowed::Bits(bits))
    }

    /// Every token but the ends, since an answer is to follow, and but those with which the answer would begin in the
    /// same token as the mark before it ends.
    fn thoughts(&self) -> Allowed {
        let vocabulary = &self.thinking.vocabulary;
        let mut bits = vocabulary.known().to_vec();
        let mut forbid = |id: u32| bits[id as usize / 32] &= !(1 << (id % 32));
        vocabulary.eos().iter().for_each(|&id| forbid(id));
        let close = self.thinking.format.close;
        if close.iter().any(|mark| overlap(&self.tail, mark.as_bytes()) > 0) {
            let runs_over = |id: &u32| {
                let text = [&self.tail, self.thinking.bytes(*id)].concat();
                let end = |mark: &&str| position(&text, mark.as_bytes()).map(|at| at + mark.len());
                close.iter().filter_map(end).any(|end| end < text.len())
            };
            vocabulary.ids().filter(runs_over).for_each(&mut forbid);
        }
        Allowed::Bits(bits)
    }

    /// The budget is spent: the mark's next token, and no other.
    fn end_mark(&mut self) -> Result<Allowed, GuideError> {
        if self.forced.is_empty() {
            let mark = self.thinking.format.end();
            let written = overlap(&self.tail, mark.as_bytes());
            self.forced = self.thinking.spelled(mark, written)?.into();
        }
        Ok(Allowed::Only(self.forced.front().copied().into_iter().collect()))
    }

    fn longest_mark(&self) -> usize {
        self.thinking.format.close.iter().map(|mark| mark.len()).max().unwrap_or(0)
    }
}

impl Thinking {
    fn bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }

    /// The tokens of a mark of which the first `written` bytes stand there already.
    fn spelled(&self, mark: &str, written: usize) -> Result<Vec<u32>, GuideError> {
        let of_tokens = |ids: &[u32]| ids.iter().flat_map(|&id| self.bytes(id)).copied().collect::<Vec<u8>>();
        let ids = if written == 0 { self.tokenizer.encode(mark, false).unwrap_or_default() } else { Vec::new() };
        // Some tokenizers put a space before every text.
        if of_tokens(&ids).trim_ascii_start() == mark.as_bytes() {
            return Ok(ids);
        }
        let rest = mark.get(written..).unwrap_or(mark);
        let ids = self.vocabulary.spell(rest);
        match of_tokens(&ids) == rest.as_bytes() {
            true => Ok(ids),
            false => Err(GuideError(format!("the model has no tokens for {mark:?}, which ends its reasoning"))),
        }
    }
}

/// Whether `text` is the beginning of a mark that opens reasoning, or begins with one.
fn may_open(format: &ReasoningFormat, text: &[u8]) -> bool {
    format.open.iter().any(|mark| mark.as_bytes().starts_with(text) || text == mark.as_bytes())
}

/// How many bytes of `mark` stand at the end of `text`, not all of them.
fn overlap(text: &[u8], mark: &[u8]) -> usize {
    (1..mark.len()).rev().find(|&length| text.ends_with(&mark[..length])).unwrap_or(0)
}

fn position(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}

impl fmt::Debug for Thinking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begins, budget, .. } = self;
        f.debug_struct("Thinking").field("begins", begins).field("budget", budget).finish_non_exhaustive()
    }
}

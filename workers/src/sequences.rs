//! What a rank knows of the running sequences. It hears of them only by steps, and every step is an allegation until it
//! is checked here: what passes cannot lead a kernel outside its memory.

use std::collections::HashMap;
use std::ops::Range;

use kernels::CHOSEN;
use thiserror::Error;

use crate::link::sampling::Sampling;
use crate::link::step::{Chunk, NewSequence, Pooling, SequenceId};
use crate::masks::Awaited;
use crate::pooling::Pool;
use crate::sampler::History;

/// What a rank has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that the model knows.
    pub vocab_size: usize,
    /// Longest sequence, tokens.
    pub max_model_len: usize,
    /// Most tokens in a step.
    pub batch_tokens_max: usize,
    /// Most sequences in a step.
    pub sequences_max: usize,
    /// Most tokens of a draft.
    pub draft_max: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks.
    pub kv_blocks: usize,
}

/// A step that makes no sense: the server's fault, and the end of this rank, since the two no longer agree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// A step was lost, or came twice.
    #[error("step {found} came where step {expected} was due")]
    Number {
        /// The step's number.
        found: u64,
        /// The one due.
        expected: u64,
    },
    /// The step is larger than was agreed.
    #[error("a step with {found} {what}, at most {limit} were agreed")]
    TooLarge {
        /// Tokens or sequences.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// Something about one sequence.
    #[error("sequence {}: {fault}", .id.0)]
    Sequence {
        /// Which one.
        id: SequenceId,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What can be wrong with one sequence in a step.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The ranks have not met it.
    #[error("is computed, but was never started")]
    Unknown,
    /// Its id is in use.
    #[error("was started twice")]
    StartedTwice,
    /// It is twice in one batch.
    #[error("is twice in one step")]
    ComputedTwice,
    /// It has no prompt, or a prompt longer than itself.
    #[error("has {tokens} tokens, {prompt_length} of them as its prompt")]
    Prompt {
        /// Its tokens.
        tokens: usize,
        /// The prompt among them.
        prompt_length: u32,
    },
    /// It is longer than the model can go.
    #[error("has {tokens} tokens, the model is loaded for {limit}")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The bound.
        limit: usize,
    },
    /// The model does not know a token.
    #[error("has token {token}, the model knows {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// How many it knows.
        vocab_size: usize,
    },
    /// The chunk is not the next one.
    #[error("is to compute tokens {start}..{end}, {computed} of its {tokens} are computed")]
    Range {
        /// The chunk's first token.
        start: u32,
        /// The token after its last.
        end: u64,
        /// Where it should begin.
        computed: usize,
        /// The sequence's length.
        tokens: usize,
    },
    /// It would be sampled in the middle.
    #[error("is to be sampled after token {end} of {tokens}")]
    SampledEarly {
        /// The token after the chunk's last.
        end: usize,
        /// The sequence's length.
        tokens: usize,
    },
    /// A draft without a choice at its head, or of one whose choices wait for masks.
    #[error("has a draft, but is not sampled, or is guided")]
    Drafted,
    /// It goes on though nobody knows how much of its draft is right.
    #[error("is computed further, and its draft was not decided on")]
    Undecided,
    /// Something is to be scored that is not in the chunk, or has no next token in the prompt.
    #[error("is to be scored at {start}..{end}, which is not in its chunk or not before the prompt's last token")]
    Scored {
        /// The first scored position.
        start: u32,
        /// The position after the last.
        end: u32,
    },
    /// A pooled sequence would be sampled.
    #[error("is to be sampled, but was started to be pooled")]
    Sampled,
    /// The mean over all tokens would lack some.
    #[error("is to be pooled over all its tokens, but begins at token {start}")]
    PooledLate {
        /// The first token of its first chunk.
        start: u32,
    },
    /// A block that does not exist.
    #[error("has block {block}, the pool has {kv_blocks}")]
    Block {
        /// The block.
        block: u32,
        /// How many there are.
        kv_blocks: usize,
    },
    /// Its blocks do not reach.
    #[error("has {blocks} blocks of {block_size}, too few for {tokens} tokens")]
    TooFewBlocks {
        /// Its blocks.
        blocks: usize,
        /// Tokens in each.
        block_size: usize,
        /// Tokens to hold.
        tokens: usize,
    },
}

/// One sequence on a rank.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Prompt and generated tokens. The last one may still be a [place](CHOSEN) in the device's choice, whose token is
    /// not known yet; and behind them may be a draft.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt_length: usize,
    /// How its next token is chosen.
    pub sampling: Sampling,
    /// Its KV blocks in order.
    pub blocks: Vec<u32>,
    /// Where it is to become one vector, what it has come to.
    pub pool: Option<Pool>,
    /// How many of its last tokens are a draft.
    drafted: usize,
    /// Tokens in the KV cache, without those of a draft; none before its first chunk, which says how many were found there.
    computed: Option<usize>,
}

impl Sequence {
    /// What the sampler wants to know to choose the token behind the first `length`.
    pub fn history(&self, length: usize) -> History<'_> {
        History { tokens: &self.tokens[..length], prompt_length: self.prompt_length }
    }

    /// How many tokens it has, its draft's not counted.
    pub fn length(&self) -> usize {
        self.tokens.len() - self.drafted
    }

    /// The mask that its next choice needs, if it is guided. `id` is its own.
    pub fn awaited(&self, id: SequenceId) -> Option<Awaited> {
        self.sampling.guided.then_some(Awaited { id, position: self.tokens.len() as u32 })
    }
}

/// The running sequences by id.
#[derive(Debug, Clone)]
pub struct Sequences {
    known: HashMap<SequenceId, Sequence>,
    limits: Limits,
}

impl Sequences {
    /// No sequence yet.
    pub fn new(limits: Limits) -> Self {
        Self { known: HashMap::new(), limits }
    }

    /// What they must keep to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A sequence by its id.
    pub fn get(&self, id: SequenceId) -> Result<&Sequence, StepError> {
        self.known.get(&id).ok_or(StepError::Sequence { id, fault: Fault::Unknown })
    }

    /// The pool of a sequence that is to become one vector.
    pub fn pool(&mut self, id: SequenceId) -> Option<&mut Pool> {
        self.known.get_mut(&id)?.pool.as_mut()
    }

    /// Forgets a sequence. One that was never met is forgotten already.
    pub fn finish(&mut self, id: SequenceId) {
        self.known.remove(&id);
    }

    /// Meets a sequence.
    pub fn start(&mut self, new: &NewSequence) -> Result<(), StepError> {
        let refuse = |fault| Err(StepError::Sequence { id: new.id, fault });
        if let Some(fault) = self.fault_of(new) {
            return refuse(fault);
        }
        let sequence = Sequence {
            tokens: new.tokens.clone(),
            prompt_length: new.prompt_length as usize,
            sampling: new.sampling.clone(),
            blocks: Vec::new(),
            pool: new.pooling.map(Pool::new),
            drafted: 0,
            computed: None,
        };
        match self.known.insert(new.id, sequence) {
            Some(_) => refuse(Fault::StartedTwice),
            None => Ok(()),
        }
    }

    /// Takes a chunk's blocks and its draft, and counts its tokens as computed.
    pub fn advance(&mut self, chunk: &Chunk) -> Result<&Sequence, StepError> {
        let Some(sequence) = self.known.get_mut(&chunk.id) else {
            return Err(StepError::Sequence { id: chunk.id, fault: Fault::Unknown });
        };
        match sequence.take(chunk, &self.limits) {
            Ok(()) => Ok(sequence),
            Err(fault) => Err(StepError::Sequence { id: chunk.id, fault }),
        }
    }

    /// Appends a sampled token.
    pub fn append(&mut self, id: SequenceId, token: u32) -> Result<(), StepError> {
        let vocab_size = self.limits.vocab_size;
        match self.known.get_mut(&id) {
            None => Err(StepError::Sequence { id, fault: Fault::Unknown }),
            Some(_) if token as usize >= vocab_size => {
                Err(StepError::Sequence { id, fault: Fault::Token { token, vocab_size } })
            }
            Some(sequence) => {
                sequence.tokens.push(token);
                Ok(())
            }
        }
    }

    /// Appends the token that the device's choice has at `place`, before it is known.
    pub fn append_chosen(&mut self, id: SequenceId, place: u32) -> Result<(), StepError> {
        let sequence = self.known.get_mut(&id).ok_or(StepError::Sequence { id, fault: Fault::Unknown })?;
        sequence.tokens.push(CHOSEN | place);
        Ok(())
    }

    /// Takes in what such a token is. A sequence that was forgotten since needs it no more.
    pub fn learn(&mut self, id: SequenceId, token: u32) -> Result<(), StepError> {
        let vocab_size = self.limits.vocab_size;
        let Some(sequence) = self.known.get_mut(&id) else { return Ok(()) };
        match sequence.tokens.last_mut().filter(|last| **last & CHOSEN != 0) {
            Some(last) if (token as usize) < vocab_size => *last = token,
            _ => return Err(StepError::Sequence { id, fault: Fault::Token { token, vocab_size } }),
        }
        Ok(())
    }

    /// Keeps of a sequence's draft as much as turns out to be right, now that it is known what was `sampled` behind each of
    /// its places: how many tokens that is. They are computed.
    pub fn decide(&mut self, id: SequenceId, sampled: &[u32]) -> Result<usize, StepError> {
        let sequence = self.known.get_mut(&id).ok_or(StepError::Sequence { id, fault: Fault::Unknown })?;
        let length = sequence.length();
        let draft = sequence.tokens[length..].iter();
        let right = draft.zip(sampled).take_while(|(drafted, sampled)| drafted == sampled).count();
        sequence.tokens.truncate(length + right);
        sequence.drafted = 0;
        sequence.computed = sequence.computed.map(|computed| computed + right);
        Ok(right)
    }

    /// Counts its last token as not computed: nothing could be chosen after it yet, and a later step tries again.
    pub fn defer(&mut self, id: SequenceId) -> Result<(), StepError> {
        let Some(sequence) = self.known.get_mut(&id) else {
            return Err(StepError::Sequence { id, fault: Fault::Unknown });
        };
        sequence.computed = sequence.computed.map(|computed| computed.saturating_sub(1));
        Ok(())
    }

    fn fault_of(&self, new: &NewSequence) -> Option<Fault> {
        let Limits { vocab_size, max_model_len, .. } = self.limits;
        let tokens = new.tokens.len();
        let prompt_fits = (1..=tokens).contains(&(new.prompt_length as usize));
        let unknown = || new.tokens.iter().find(|&&token| token as usize >= vocab_size);
        if !prompt_fits {
            Some(Fault::Prompt { tokens, prompt_length: new.prompt_length })
        } else if tokens > max_model_len {
            Some(Fault::TooLong { tokens, limit: max_model_len })
        } else {
            unknown().map(|&token| Fault::Token { token, vocab_size })
        }
    }
}

impl Sequence {
    fn take(&mut self, chunk: &Chunk, limits: &Limits) -> Result<(), Fault> {
        let tokens = self.tokens.len();
        let (start, end) = (chunk.start as usize, chunk.start as usize + chunk.count as usize);
        let computed = self.computed.unwrap_or(start);
        if start != computed || chunk.count == 0 || end > tokens {
            let computed = self.computed.unwrap_or(0);
            return Err(Fault::Range { start: chunk.start, end: end as u64, computed, tokens });
        }
        if chunk.samples && end != tokens {
            return Err(Fault::SampledEarly { end, tokens });
        }
        self.check_draft(chunk, limits)?;
        if let Some(pool) = &self.pool {
            check_pooled(pool.pooling(), chunk, self.computed)?;
        }
        self.check_scored(chunk)?;
        let reached = end + chunk.draft.len();
        if reached > limits.max_model_len {
            return Err(Fault::TooLong { tokens: reached, limit: limits.max_model_len });
        }
        if let Some(&block) = chunk.new_blocks.iter().find(|&&block| block as usize >= limits.kv_blocks) {
            return Err(Fault::Block { block, kv_blocks: limits.kv_blocks });
        }
        self.blocks.extend_from_slice(&chunk.new_blocks);
        if self.blocks.len() * limits.block_size < reached {
            let (blocks, block_size) = (self.blocks.len(), limits.block_size);
            return Err(Fault::TooFewBlocks { blocks, block_size, tokens: reached });
        }
        self.tokens.extend_from_slice(&chunk.draft);
        self.drafted = chunk.draft.len();
        self.computed = Some(end);
        Ok(())
    }

    fn check_draft(&self, chunk: &Chunk, limits: &Limits) -> Result<(), Fault> {
        let Limits { vocab_size, .. } = *limits;
        let unknown = chunk.draft.iter().find(|&&token| token as usize >= vocab_size);
        match unknown {
            _ if self.drafted > 0 => Err(Fault::Undecided),
            Some(&token) => Err(Fault::Token { token, vocab_size }),
            None if !chunk.draft.is_empty() && (!chunk.samples || self.sampling.guided) => Err(Fault::Drafted),
            None => Ok(()),
        }
    }

    /// What is scored lies in the chunk, and the token after it in the prompt.
    fn check_scored(&self, chunk: &Chunk) -> Result<(), Fault> {
        let Range { start, end } = chunk.scored;
        let in_chunk = chunk.start <= start && end <= chunk.start + chunk.count;
        let has_next = (end as usize) < self.prompt_length;
        let is_fine = chunk.scored.is_empty() || in_chunk && has_next;
        if is_fine { Ok(()) } else { Err(Fault::Scored { start, end }) }
    }
}

/// A cached prefix leaves no hidden states, so a mean begins with the sequence.
fn check_pooled(pooling: Pooling, chunk: &Chunk, computed: Option<usize>) -> Result<(), Fault> {
    match pooling {
        _ if chunk.samples => Err(Fault::Sampled),
        Pooling::Mean if computed.is_none() && chunk.start > 0 => Err(Fault::PooledLate { start: chunk.start }),
        Pooling::Mean | Pooling::Last => Ok(()),
    }
}

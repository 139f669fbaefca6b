//! One growing list of tokens, and how far its computation has come.

use workers::link::{
    sampling::Sampling,
    step::{NewSequence, SequenceId},
};

use super::{
    block_pool::{BlockId, PrefixHash},
    request::{Finish, NewRequest},
};

/// Names a request from its arrival to its end; grows with each arrival. The ranks know it under a [`SequenceId`], a fresh
/// one each time it is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// A sequence, waiting or running.
///
/// ```text
///   tokens     │ prompt            │ generated │ (sampled by steps not yet reported)
///   computed   ├───────────┤ reported: the KV cache surely holds them
///   scheduled  ├──────────────────┤ published: held once the steps on their way are done
/// ```
#[derive(Debug)]
pub struct Sequence {
    /// Which request it is.
    pub key: RequestKey,
    /// Its name on the ranks; meaningful while it runs.
    pub id: SequenceId,
    /// The prompt and what was reported since.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are the prompt.
    pub prompt_length: usize,
    /// How its tokens are chosen.
    pub sampling: Sampling,
    /// It ends once it has so many tokens: by its `max_tokens`, the context, or the whole KV cache.
    pub length_max: usize,
    /// Its blocks, in order.
    pub blocks: Vec<BlockId>,
    /// Tokens whose keys and values steps were published for.
    pub scheduled: usize,
    /// Tokens whose keys and values are known to be in the cache.
    pub computed: usize,
    /// Published steps that will each report one more token.
    pub sampling_steps: usize,
    /// How many of its first blocks were offered to the prefix cache, or came from it.
    pub remembered: usize,
    /// Whether it was ever admitted.
    pub started: bool,
    /// Set by the token that ended it.
    pub finish: Option<Finish>,
    /// Of its full blocks, as many as were asked for yet.
    prefixes: Vec<PrefixHash>,
}

impl Sequence {
    /// A sequence that has just arrived. `model_len_max` is the longest context, tokens.
    pub fn new(key: RequestKey, request: NewRequest, model_len_max: usize) -> Self {
        let prompt_length = request.prompt.len();
        let length_max = (prompt_length + request.max_tokens as usize).min(model_len_max).max(prompt_length + 1);
        Self {
            key,
            id: SequenceId(0),
            tokens: request.prompt,
            prompt_length,
            sampling: request.sampling,
            length_max,
            blocks: Vec::new(),
            scheduled: 0,
            computed: 0,
            sampling_steps: 0,
            remembered: 0,
            started: false,
            finish: None,
            prefixes: Vec::new(),
        }
    }

    /// Tokens generated and reported.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_length
    }

    /// Its length once all published steps are reported.
    pub fn expected_length(&self) -> usize {
        self.tokens.len() + self.sampling_steps
    }

    /// Tokens that the next steps have to compute: one while decoding, more in prefill, none where the steps already
    /// published will reach its last token.
    pub fn uncomputed(&self) -> usize {
        if self.expected_length() >= self.length_max { 0 } else { self.expected_length() - self.scheduled }
    }

    /// The prefixes that end with its first `count` blocks, all of them full.
    pub fn prefixes(&mut self, count: usize, block_size: usize) -> &[PrefixHash] {
        while self.prefixes.len() < count {
            let start = self.prefixes.len() * block_size;
            let before = self.prefixes.last().copied().unwrap_or(PrefixHash::EMPTY);
            self.prefixes.push(before.extend(&self.tokens[start..start + block_size]));
        }
        &self.prefixes[..count]
    }

    /// Takes in a sampled token; says why it ends the sequence, if it does. A stop token on the last allowed place is a stop.
    pub fn push(&mut self, token: u32) -> Option<Finish> {
        self.tokens.push(token);
        let stops = self.generated() >= self.sampling.min_tokens as usize;
        self.finish = if stops && self.sampling.stop_token_ids.contains(&token) {
            Some(Finish::Stop)
        } else {
            (self.tokens.len() >= self.length_max).then_some(Finish::Length)
        };
        self.finish
    }

    /// Lowers `length_max` to what a cache of `tokens_max` can bear: full, it still yields one more token.
    pub fn fit_cache(&mut self, tokens_max: usize) {
        self.length_max = self.length_max.min(tokens_max + 1);
    }

    /// Begins with these blocks, full of its first tokens and computed before.
    pub fn start_behind(&mut self, cached: &[BlockId], block_size: usize) {
        self.blocks.extend(cached);
        self.computed = cached.len() * block_size;
        (self.scheduled, self.remembered) = (self.computed, cached.len());
    }

    /// Forgets all that was computed and gives its blocks to the caller: it has to start from its tokens again.
    pub fn restart(&mut self) -> Vec<BlockId> {
        (self.scheduled, self.computed, self.sampling_steps, self.remembered) = (0, 0, 0, 0);
        std::mem::take(&mut self.blocks)
    }

    /// How many numbers `introduce` takes to the ranks.
    pub fn introduction_tokens(&self) -> usize {
        self.tokens.len() + self.sampling.listed_numbers()
    }

    /// As the ranks shall meet it.
    pub fn introduce(&self) -> NewSequence {
        NewSequence {
            id: self.id,
            tokens: self.tokens.clone(),
            prompt_length: as_u32(self.prompt_length),
            sampling: self.sampling.clone(),
            pooling: None,
        }
    }
}

/// Counts of tokens fit 32 bits: a context is bounded far below.
pub fn as_u32(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("a context is shorter than 2^32 tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(max_tokens: u32, min_tokens: u32, model_len_max: usize) -> Sequence {
        let sampling = Sampling { stop_token_ids: vec![9], min_tokens, ..Sampling::default() };
        let prompt = vec![1, 2, 3];
        let request = NewRequest { id: "r".into(), prompt, sampling, max_tokens, ..NewRequest::default() };
        Sequence::new(RequestKey(1), request, model_len_max)
    }

    fn check(mut sequence: Sequence, sampled: &[u32], finish: Option<Finish>) {
        let (&last, before) = sampled.split_last().expect("tokens");
        for &token in before {
            assert_eq!(sequence.push(token), None);
        }
        assert_eq!(sequence.push(last), finish);
    }

    #[test]
    fn how_a_sequence_ends() {
        check(sequence(3, 0, 100), &[5, 6, 7], Some(Finish::Length));
        check(sequence(3, 0, 100), &[5, 9], Some(Finish::Stop));
        check(sequence(3, 0, 100), &[5, 6, 9], Some(Finish::Stop));
        check(sequence(3, 0, 5), &[5, 6], Some(Finish::Length));
        check(sequence(5, 3, 100), &[9, 9], None);
        check(sequence(5, 3, 100), &[9, 9, 9], Some(Finish::Stop));
    }

    #[test]
    fn prefixes_depend_on_all_tokens_before() {
        let (mut one, mut other) = (sequence(3, 0, 100), sequence(3, 0, 100));
        other.tokens[0] = 7;
        assert_ne!(one.prefixes(3, 1)[2], other.prefixes(3, 1)[2]);
        other.tokens[0] = 1;
        assert_eq!(one.prefixes(2, 1)[1], sequence(1, 0, 9).prefixes(3, 1)[1]);
    }
}

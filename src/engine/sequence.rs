//! One growing list of tokens, and how far its computation has come.

use std::{ops::Range, sync::Arc};

use workers::link::{
    sampling::Sampling,
    step::{NewSequence, Pooling, SequenceId},
};

use super::{
    block_pool::{BlockId, PrefixHash},
    guides::Guided,
    request::{EarlyStop, Event, Failure, Finish, NewRequest},
    speculation::{self, Forecast, Lookup},
};

/// Names a request from its arrival to its end; grows with each arrival. The ranks know it under a [`SequenceId`], a fresh
/// one each time it is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// Whose turn it is first: the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency {
    /// As the client asked for.
    pub priority: i64,
    /// Among equals, the one that came first.
    pub key: RequestKey,
}

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
    /// What its client knows it by, for logs.
    pub request_id: String,
    /// Smaller goes first.
    pub priority: i64,
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
    /// The same, whatever the KV cache.
    length_wanted: usize,
    /// Its blocks, in order.
    pub blocks: Vec<BlockId>,
    /// Tokens whose keys and values steps were published for.
    pub scheduled: usize,
    /// Tokens whose keys and values are known to be in the cache.
    pub computed: usize,
    /// Published steps that will each report one more token.
    pub sampling_steps: usize,
    /// How many tokens behind the scheduled ones are on their way as a draft, which that step may confirm.
    pub drafted: usize,
    /// How many of its first blocks were offered to the prefix cache, or came from it.
    pub remembered: usize,
    /// Whether it was ever admitted.
    pub started: bool,
    /// Its last event, once it has come to its end.
    pub ended: Option<Event>,
    /// Who says which tokens may come. Never looked into here.
    pub guide: Option<Arc<Guided>>,
    /// Its guide keeps it waiting: there's nothing to compute until [`Scheduler::release`](super::scheduler::Scheduler).
    pub held: bool,
    /// Whether nothing is to be generated, but its prompt pooled.
    pub pooling: Option<Pooling>,
    /// How many of its prompt's tokens are scored and told; none where that was not asked for.
    pub scored: Option<usize>,
    /// The most tokens that a settled step had computed, on whichever group.
    furthest: usize,
    /// `furthest` when a group last died while it computed this.
    suspected_at: Option<usize>,
    /// What is reported next, if what came before comes again.
    pub forecast: Forecast,
    lookup: Lookup,
    early_stop: Option<EarlyStop>,
    /// How many of its last tokens, in a row, were almost certain.
    certain_tokens: u32,
    /// What its prefixes begin with.
    salt: PrefixHash,
    /// Of its full blocks, as many as were asked for yet.
    prefixes: Vec<PrefixHash>,
}

impl Sequence {
    /// A sequence that has just arrived. `model_len_max` is the longest context, tokens.
    pub fn new(key: RequestKey, request: NewRequest, model_len_max: usize) -> Self {
        let prompt_length = request.prompt.len();
        // A pooled one never grows, so that any length beyond its own will do.
        let growth_max = if request.pooling.is_some() { 1 } else { request.max_tokens as usize };
        let length_max = (prompt_length + growth_max).min(model_len_max).max(prompt_length + 1);
        let sampling = Sampling {
            guided: request.guide.is_some(),
            confidence_threshold: request.early_stop.map(|stop| stop.threshold),
            prompt_alternatives: request.prompt_logprobs.unwrap_or(0),
            ..request.sampling
        };
        Self {
            key,
            request_id: request.id,
            priority: request.priority,
            id: SequenceId(0),
            tokens: request.prompt,
            prompt_length,
            sampling,
            length_max,
            length_wanted: length_max,
            blocks: Vec::new(),
            scheduled: 0,
            computed: 0,
            sampling_steps: 0,
            drafted: 0,
            remembered: 0,
            started: false,
            ended: None,
            guide: request.guide.map(|guide| Arc::new(Guided::new(key, guide))),
            held: false,
            pooling: request.pooling,
            scored: request.prompt_logprobs.map(|_| 0),
            furthest: 0,
            suspected_at: None,
            forecast: Forecast::default(),
            lookup: Lookup::default(),
            early_stop: request.early_stop,
            certain_tokens: 0,
            salt: request.cache_salt.as_deref().map_or(PrefixHash::EMPTY, PrefixHash::salted),
            prefixes: Vec::new(),
        }
    }

    /// Its place among others.
    pub fn urgency(&self) -> Urgency {
        Urgency { priority: self.priority, key: self.key }
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
    /// published will reach its last token. None, too, while it waits for its guide or for its next token.
    pub fn uncomputed(&self) -> usize {
        if self.held || self.waits_for_token() || self.expected_length() >= self.length_max {
            0
        } else {
            self.expected_length() - self.scheduled
        }
    }

    /// Whether its next step gives it another token than its first.
    pub fn is_decoding(&self) -> bool {
        !self.held && self.expected_length() > self.prompt_length
    }

    /// Whether it can't be computed further before its next token is reported: a guide has to see that first, or there may
    /// be none, or a draft is right, and there are more.
    pub fn waits_for_token(&self) -> bool {
        self.sampling_steps > 0 && (self.drafted > 0 || self.sampling.may_leave_nothing())
    }

    /// Makes the forecast of what follows its last token, which the step in the making computes: as much as it may grow by.
    /// Nothing for who is guided, as masks are of one place at a time; answers whether there is any.
    pub fn look_ahead(&mut self, settings: speculation::Settings) -> bool {
        if self.guide.is_some() || self.scheduled != self.tokens.len() {
            return false;
        }
        self.forecast = self.lookup.forecast(&self.tokens, settings);
        // The step gives it one token in any case.
        let growth_max = self.length_max.saturating_sub(self.tokens.len() + 1);
        let tokens = &mut self.forecast.tokens;
        let stop = tokens.iter().position(|token| self.sampling.stop_token_ids.contains(token));
        tokens.truncate(stop.map_or(growth_max, |stop| growth_max.min(stop + 1)));
        !self.forecast.tokens.is_empty()
    }

    /// Positions from `start` on, before `end`, that are to be scored and were not yet. The prompt's last has no next
    /// token in it to be scored.
    pub fn unscored(&self, start: usize, end: usize) -> Range<usize> {
        match self.scored {
            Some(scored) => {
                let start = start.max(scored);
                start..end.min(self.prompt_length - 1).max(start)
            }
            None => start..start,
        }
    }

    /// How many of its first tokens need not be calculated where their keys and values are cached: always less than all,
    /// none that are to be scored, and none of a mean.
    pub fn skippable(&self) -> usize {
        match (self.pooling, self.scored) {
            (Some(Pooling::Mean), _) => 0,
            (_, Some(scored)) if scored < self.prompt_length - 1 => scored,
            _ => self.tokens.len() - 1,
        }
    }

    /// The prefixes that end with its first `count` blocks, all of them full.
    pub fn prefixes(&mut self, count: usize, block_size: usize) -> &[PrefixHash] {
        while self.prefixes.len() < count {
            let start = self.prefixes.len() * block_size;
            let before = self.prefixes.last().copied().unwrap_or(self.salt);
            self.prefixes.push(before.extend(&self.tokens[start..start + block_size]));
        }
        &self.prefixes[..count]
    }

    /// Takes in a sampled token, which may end the sequence. A stop token on the last allowed place is a stop.
    pub fn push(&mut self, token: u32, certain: bool) {
        self.tokens.push(token);
        self.certain_tokens = if certain { self.certain_tokens + 1 } else { 0 };
        let may_stop = self.generated() >= self.sampling.min_tokens as usize;
        let repeats = self.early_stop.is_some_and(|stop| self.certain_tokens >= stop.window);
        let finish = if may_stop && self.sampling.stop_token_ids.contains(&token) {
            Some(Finish::Stop)
        } else if self.tokens.len() >= self.length_max {
            Some(Finish::Length)
        } else {
            (may_stop && repeats).then_some(Finish::Repetition)
        };
        self.ended = finish.map(Event::Finished);
    }

    /// Ends it without the token that was wanted.
    pub fn fail(&mut self, why: &str) {
        self.ended = Some(Event::Failed(Failure::Guide(why.to_owned())));
    }

    /// Bounds `length_max` by what a cache of `tokens_max` can bear: full, it still yields one more token.
    pub fn fit_cache(&mut self, tokens_max: usize) {
        self.length_max = self.length_wanted.min(tokens_max + 1);
    }

    /// A step was settled that had computed its first `end` tokens.
    pub fn settled(&mut self, end: usize) {
        self.furthest = self.furthest.max(end);
    }

    /// A group died while it computed this. Answers whether this happened before, and it has come no further since.
    pub fn killed_group(&mut self) -> bool {
        let again = self.is_suspect();
        self.suspected_at = Some(self.furthest);
        again
    }

    /// Whether it may be what the last group that computed it died of: it has not come further since.
    pub fn is_suspect(&self) -> bool {
        self.suspected_at.is_some_and(|at| self.furthest <= at)
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
        (self.drafted, self.forecast, self.lookup) = (0, Forecast::default(), Lookup::default());
        self.held = false;
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
            pooling: self.pooling,
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

    /// Tokens above 100 are certain.
    fn check(mut sequence: Sequence, sampled: &[u32], finish: Option<Finish>) {
        for &token in sampled {
            assert_eq!(sequence.ended, None);
            sequence.push(token, token > 100);
        }
        assert_eq!(sequence.ended, finish.map(Event::Finished));
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
    fn repetition_is_many_certain_tokens_in_a_row() {
        let early = |max_tokens, min_tokens| {
            let early_stop = Some(EarlyStop { window: 2, threshold: 0.9 });
            Sequence { early_stop, ..sequence(max_tokens, min_tokens, 100) }
        };
        check(early(9, 0), &[101, 101], Some(Finish::Repetition));
        check(early(9, 0), &[101, 1, 102, 2, 103], None);
        check(early(9, 3), &[101, 102, 103], Some(Finish::Repetition));
        check(early(2, 0), &[101, 102], Some(Finish::Length));
        check(sequence(9, 0, 100), &[101, 102, 103], None);
    }

    #[test]
    fn what_is_scored_is_calculated_and_only_once() {
        let mut scored = Sequence { scored: Some(0), ..sequence(3, 0, 100) };
        assert_eq!((scored.unscored(0, 3), scored.unscored(1, 2), scored.skippable()), (0..2, 1..2, 0));
        scored.scored = Some(1);
        assert_eq!((scored.unscored(0, 3), scored.unscored(0, 1), scored.skippable()), (1..2, 1..1, 1));
        scored.scored = Some(2);
        assert_eq!((scored.unscored(0, 9).len(), scored.skippable()), (0, 2));
        assert_eq!(sequence(3, 0, 100).unscored(0, 3).len(), 0);
        assert_eq!(Sequence { pooling: Some(Pooling::Mean), ..sequence(3, 0, 100) }.skippable(), 0);
        assert_eq!(Sequence { pooling: Some(Pooling::Last), ..sequence(3, 0, 100) }.skippable(), 2);
    }

    #[test]
    fn prefixes_depend_on_the_salt() {
        let salted = |salt: Option<&str>| {
            let salt = salt.map_or(PrefixHash::EMPTY, PrefixHash::salted);
            Sequence { salt, ..sequence(3, 0, 100) }.prefixes(1, 2).to_vec()
        };
        assert_eq!(salted(Some("a")), salted(Some("a")));
        assert_ne!(salted(Some("a")), salted(Some("b")));
        assert_ne!(salted(Some("")), salted(None));
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

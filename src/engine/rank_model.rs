//! A rank without arithmetic.
//!
//! Its KV cache stores, in each slot, a digest of all tokens up to there. So a step that reads a block which somebody else
//! wrote, or that was never written, is found out; and what it samples depends on every token before, but for sequences that
//! repeat themselves.

use std::collections::{HashMap, HashSet};

use workers::link::{
    mask::Allowed,
    report::{Embedding, Logprobs, Outcome, PromptLogprobs, SampledTokens, StepReport},
    sampling::Sampling,
    step::{Chunk, NewSequence, Pooling, SequenceId, Step},
};

use super::{
    guide::{Guide, GuideError},
    request::{EarlyStop, Event, Failure, Finish, NewRequest},
};

const VOCABULARY: u64 = 13;
pub const STOP_TOKEN: u32 = 0;

/// What a rank knows, and what it insists on.
pub struct RankModel {
    block_size: usize,
    last_step: u64,
    pub last_id: u64,
    sequences: HashMap<SequenceId, Known>,
    /// A digest per slot, `[blocks × block_size]`.
    cache: Vec<Option<u64>>,
    /// Masks that have come, and for which position each is.
    pub masks: HashMap<SequenceId, (u32, Allowed)>,
}

struct Known {
    tokens: Vec<u32>,
    prompt_length: usize,
    sampling: Sampling,
    pooling: Option<Pooling>,
    block_table: Vec<u32>,
    computed: usize,
    /// The furthest that it was ever computed, drafts included.
    furthest: usize,
    /// Of the digests of all tokens that it computed by this name.
    sum: u64,
}

impl RankModel {
    pub fn new(blocks: usize, block_size: usize) -> Self {
        let cache = vec![None; blocks * block_size];
        let (sequences, masks) = (HashMap::new(), HashMap::new());
        Self { block_size, last_step: 0, last_id: 0, sequences, cache, masks }
    }

    /// Goes on with the cache of a rank that is gone. Where it is of another size, nothing of it is of use.
    pub fn inherit(&mut self, before: Self) {
        if before.cache.len() == self.cache.len() {
            self.cache = before.cache;
        }
    }

    /// Does what a worker does with a frame, and panics where a worker could not.
    pub fn apply(&mut self, step: &Step) -> StepReport {
        assert_eq!(step.number, self.last_step + 1, "steps come one by one");
        self.last_step = step.number;
        for id in &step.finished {
            assert!(self.sequences.remove(id).is_some(), "{id:?} finished without being known");
            self.masks.remove(id);
        }
        step.started.iter().for_each(|sequence| self.meet(sequence));
        let mut written = HashSet::new();
        step.batch.iter().for_each(|chunk| self.write(chunk, &mut written));
        let mut report = StepReport { step: step.number, ..StepReport::default() };
        step.batch.iter().for_each(|chunk| self.read(chunk, &mut report));
        report
    }

    fn meet(&mut self, sequence: &NewSequence) {
        let NewSequence { id, tokens, prompt_length, sampling, pooling } = sequence.clone();
        assert!(id.0 > self.last_id, "ids are never used again");
        self.last_id = id.0;
        let prompt_length = prompt_length as usize;
        assert!((1..=tokens.len()).contains(&prompt_length));
        let known = Known {
            tokens,
            prompt_length,
            sampling,
            pooling,
            block_table: Vec::new(),
            computed: 0,
            furthest: 0,
            sum: 0,
        };
        self.sequences.insert(id, known);
    }

    fn write(&mut self, chunk: &Chunk, written: &mut HashSet<usize>) {
        let known = self.sequences.get_mut(&chunk.id).expect("the sequence was introduced");
        let (start, end) = (chunk.start as usize, (chunk.start + chunk.count) as usize);
        if known.block_table.is_empty() {
            assert_eq!(start % self.block_size, 0, "a cached prefix has full blocks");
        } else {
            assert_eq!(start, known.computed, "a chunk begins where the last one ended");
        }
        assert!(chunk.count > 0 && end <= known.tokens.len());
        assert!(chunk.draft.is_empty() || chunk.samples && !known.sampling.guided);
        known.block_table.extend(&chunk.new_blocks);
        known.computed = end;
        known.furthest = known.furthest.max(end + chunk.draft.len());
        assert_eq!(known.block_table.len(), known.furthest.div_ceil(self.block_size), "blocks as needed");
        let tokens = [&known.tokens[..end], &chunk.draft].concat();
        for (position, digest) in digests(&tokens).enumerate().skip(start) {
            let slot =
                known.block_table[position / self.block_size] as usize * self.block_size + position % self.block_size;
            assert!(written.insert(slot), "slot {slot} is written twice in a step");
            self.cache[slot] = Some(digest);
            if position < end {
                known.sum = known.sum.wrapping_add(digest);
            }
        }
    }

    fn read(&mut self, chunk: &Chunk, report: &mut StepReport) {
        let known = self.sequences.get_mut(&chunk.id).expect("it was written");
        for (position, digest) in digests(&known.tokens[..known.computed]).enumerate() {
            let slot =
                known.block_table[position / self.block_size] as usize * self.block_size + position % self.block_size;
            assert_eq!(self.cache[slot], Some(digest), "{:?} reads another's KV at {position}", chunk.id);
        }
        let reaches_end = known.computed == known.tokens.len();
        assert_eq!(chunk.samples, reaches_end && known.pooling.is_none(), "only from the last token is sampled");
        if !chunk.scored.is_empty() {
            assert!(chunk.start <= chunk.scored.start && chunk.scored.end <= chunk.start + chunk.count);
            assert!((chunk.scored.end as usize) < known.prompt_length, "what follows the prompt is not scored");
            let entries = chunk.scored.clone().map(|position| known.score(position as usize)).collect();
            report.prompt_logprobs.push(PromptLogprobs { id: chunk.id, entries });
        }
        if let Some(pooling) = known.pooling.filter(|_| reaches_end) {
            let values = vec![pool(pooling, &known.tokens, known.sum)];
            report.embeddings.push(Embedding { id: chunk.id, values });
        }
        if chunk.samples {
            let mask = self.masks.get(&chunk.id).filter(|(position, _)| *position as usize == known.tokens.len());
            let mut outcomes = vec![known.choose(mask.map(|(_, allowed)| allowed))];
            for &drafted in &chunk.draft {
                if known.tokens.last() != Some(&drafted) {
                    break;
                }
                known.computed += 1;
                outcomes.push(known.choose(None));
            }
            report.tokens.push(SampledTokens { id: chunk.id, outcomes });
        }
    }
}

impl Known {
    fn choose(&mut self, mask: Option<&Allowed>) -> Outcome {
        if self.sampling.guided && mask.is_none() {
            self.computed -= 1;
            return Outcome::Deferred;
        }
        let Some(token) = sample(&self.tokens, self.prompt_length, &self.sampling, mask) else {
            return Outcome::NothingLeft;
        };
        self.tokens.push(token);
        let confident = self.sampling.confidence_threshold.is_some() && is_certain(&self.tokens);
        Outcome::Chosen { token, logprobs: None, confident }
    }

    fn score(&self, position: usize) -> Logprobs {
        score(&self.tokens[..position + 2], self.sampling.prompt_alternatives)
    }
}

/// The log-probability of the last token, given those before it.
fn score(tokens: &[u32], alternatives: u32) -> Logprobs {
    let digest = digests(tokens).last().unwrap_or(0);
    Logprobs { sampled: -((digest % 1000) as f32), rank: 0, top: vec![(0, 0.0); alternatives as usize] }
}

fn pool(pooling: Pooling, tokens: &[u32], sum: u64) -> f32 {
    let digest = if pooling == Pooling::Mean { sum } else { digests(tokens).last().unwrap_or(0) };
    (digest % 100_000) as f32
}

/// Whether the last token was, of itself, more likely than anything else.
fn is_certain(tokens: &[u32]) -> bool {
    !digests(tokens).last().unwrap_or(0).is_multiple_of(3)
}

fn digests(tokens: &[u32]) -> impl Iterator<Item = u64> {
    tokens.iter().scan(0, |digest, &token| {
        *digest = mix(*digest ^ u64::from(token));
        Some(*digest)
    })
}

/// The finalizer of SplitMix64, over the value plus its increment.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The next token, if any may come. A mask goes before the least number of tokens.
fn sample(tokens: &[u32], prompt_length: usize, sampling: &Sampling, mask: Option<&Allowed>) -> Option<u32> {
    // Where the seed is 0, only the last token counts: what came once comes again.
    let counts = if sampling.seed == 0 { &tokens[tokens.len() - 1..] } else { tokens };
    let drawn = mix(digests(counts).last().unwrap_or(0) ^ sampling.seed);
    if let Some(mask) = mask {
        let allowed: Vec<_> = (0..VOCABULARY as u32).filter(|&token| mask.contains(token)).collect();
        return (!allowed.is_empty()).then(|| allowed[drawn as usize % allowed.len()]);
    }
    let token = (drawn % VOCABULARY) as u32;
    let too_early = tokens.len() - prompt_length < sampling.min_tokens as usize;
    Some(if too_early && token == STOP_TOKEN { 1 } else { token })
}

/// A guide whose rules are a seed.
#[derive(Debug)]
pub struct Rules {
    seed: u64,
    generated: Vec<u32>,
}

impl Rules {
    pub fn new(seed: u64) -> Self {
        Self { seed, generated: Vec::new() }
    }
}

impl Guide for Rules {
    fn take(&mut self, token: u32) -> Result<(), GuideError> {
        let allowed = allowed(self.seed, &self.generated).contains(token);
        self.generated.push(token);
        if allowed { Ok(()) } else { Err(GuideError(format!("{token} was not allowed"))) }
    }

    fn allowed(&mut self) -> Result<Allowed, GuideError> {
        Ok(allowed(self.seed, &self.generated))
    }
}

/// What a guide's rules allow after these tokens: a few, and now and then none at all.
pub fn allowed(seed: u64, generated: &[u32]) -> Allowed {
    let drawn = mix(digests(generated).last().unwrap_or(0) ^ seed.rotate_left(32));
    match drawn % 16 {
        0 => Allowed::Only(Vec::new()),
        1 => Allowed::All,
        _ => Allowed::Bits(vec![(drawn >> 8) as u32 | 2]),
    }
}

/// What a request yields when it's alone in the world: the events that its client must see after `Started`.
pub fn expected(request: &NewRequest, model_len_max: usize, cache_tokens_max: usize) -> Vec<Event> {
    let prompt = &request.prompt;
    if let Some(pooling) = request.pooling {
        let sum = digests(prompt).fold(0, u64::wrapping_add);
        return vec![Event::Embedding(vec![pool(pooling, prompt, sum)]), Event::Finished(Finish::Pooled)];
    }
    let mut events = Vec::new();
    if let Some(alternatives) = request.prompt_logprobs.filter(|_| prompt.len() > 1) {
        events.push(Event::PromptLogprobs((2..=prompt.len()).map(|end| score(&prompt[..end], alternatives)).collect()));
    }
    let mut tokens = prompt.clone();
    let mut certain_tokens = 0;
    loop {
        let mask = request.guide.as_ref().map(|_| allowed(request.sampling.seed, &tokens[prompt.len()..]));
        let Some(token) = sample(&tokens, prompt.len(), &request.sampling, mask.as_ref()) else {
            let why = "all that asks for or forbids tokens, together, leaves none to choose".into();
            events.push(Event::Failed(Failure::Guide(why)));
            return events;
        };
        tokens.push(token);
        events.push(Event::Token { token, logprobs: None });
        let generated = tokens.len() - prompt.len();
        certain_tokens = if is_certain(&tokens) { certain_tokens + 1 } else { 0 };
        let may_stop = generated >= request.sampling.min_tokens as usize;
        let full = generated == request.max_tokens as usize;
        let finish = if may_stop && request.sampling.stop_token_ids.contains(&token) {
            Finish::Stop
        } else if full || tokens.len() >= model_len_max || tokens.len() > cache_tokens_max {
            Finish::Length
        } else if may_stop && request.early_stop.is_some_and(|EarlyStop { window, .. }| certain_tokens >= window) {
            Finish::Repetition
        } else {
            continue;
        };
        events.push(Event::Finished(finish));
        return events;
    }
}

/// The same events, with all log-probabilities of a prompt together, however they came; `Started` is left out.
pub fn gathered(heard: &[Event]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for event in heard {
        match (events.last_mut(), event) {
            (_, Event::Started { .. }) => {}
            (Some(Event::PromptLogprobs(all)), Event::PromptLogprobs(more)) => all.extend(more.iter().cloned()),
            _ => events.push(event.clone()),
        }
    }
    events
}

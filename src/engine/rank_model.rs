//! A rank without arithmetic.
//!
//! Its KV cache stores, in each slot, a digest of all tokens up to there. So a step that reads a block which somebody else
//! wrote, or that was never written, is found out; and what it samples depends on every token before.

use std::collections::{HashMap, HashSet};

use workers::link::{
    report::{Outcome, SampledToken, StepReport},
    sampling::Sampling,
    step::{Chunk, NewSequence, SequenceId, Step},
};

use super::request::{Finish, NewRequest};

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
}

struct Known {
    tokens: Vec<u32>,
    prompt_length: usize,
    sampling: Sampling,
    block_table: Vec<u32>,
    computed: usize,
}

impl RankModel {
    pub fn new(blocks: usize, block_size: usize) -> Self {
        let cache = vec![None; blocks * block_size];
        Self { block_size, last_step: 0, last_id: 0, sequences: HashMap::new(), cache }
    }

    /// Does what a worker does with a frame, and panics where a worker could not.
    pub fn apply(&mut self, step: &Step) -> StepReport {
        assert_eq!(step.number, self.last_step + 1, "steps come one by one");
        self.last_step = step.number;
        for id in &step.finished {
            assert!(self.sequences.remove(id).is_some(), "{id:?} finished without being known");
        }
        step.started.iter().for_each(|sequence| self.meet(sequence));
        let mut written = HashSet::new();
        step.batch.iter().for_each(|chunk| self.write(chunk, &mut written));
        let tokens = step.batch.iter().filter_map(|chunk| self.read(chunk)).collect();
        StepReport { step: step.number, tokens, ..StepReport::default() }
    }

    fn meet(&mut self, sequence: &NewSequence) {
        let NewSequence { id, tokens, prompt_length, sampling, .. } = sequence.clone();
        assert!(id.0 > self.last_id, "ids are never used again");
        self.last_id = id.0;
        let prompt_length = prompt_length as usize;
        assert!((1..=tokens.len()).contains(&prompt_length));
        self.sequences.insert(id, Known { tokens, prompt_length, sampling, block_table: Vec::new(), computed: 0 });
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
        known.block_table.extend(&chunk.new_blocks);
        assert_eq!(known.block_table.len(), end.div_ceil(self.block_size), "blocks as needed");
        known.computed = end;
        for (position, digest) in digests(&known.tokens[..end]).enumerate().skip(start) {
            let slot =
                known.block_table[position / self.block_size] as usize * self.block_size + position % self.block_size;
            assert!(written.insert(slot), "slot {slot} is written twice in a step");
            self.cache[slot] = Some(digest);
        }
    }

    fn read(&mut self, chunk: &Chunk) -> Option<SampledToken> {
        let known = self.sequences.get_mut(&chunk.id)?;
        for (position, digest) in digests(&known.tokens[..known.computed]).enumerate() {
            let slot =
                known.block_table[position / self.block_size] as usize * self.block_size + position % self.block_size;
            assert_eq!(self.cache[slot], Some(digest), "{:?} reads another's KV at {position}", chunk.id);
        }
        assert_eq!(chunk.samples, known.computed == known.tokens.len(), "only a sequence's last token is sampled from");
        chunk.samples.then(|| {
            let token = sample(&known.tokens, known.prompt_length, &known.sampling);
            known.tokens.push(token);
            SampledToken { id: chunk.id, outcome: Outcome::Chosen { token, logprobs: None, confident: false } }
        })
    }
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

fn sample(tokens: &[u32], prompt_length: usize, sampling: &Sampling) -> u32 {
    let drawn = mix(digests(tokens).last().unwrap_or(0) ^ sampling.seed) % VOCABULARY;
    let too_early = tokens.len() - prompt_length < sampling.min_tokens as usize;
    if too_early && drawn == u64::from(STOP_TOKEN) { 1 } else { drawn as u32 }
}

/// What a request yields when it's alone in the world: the events that its client must see.
pub fn expected(request: &NewRequest, model_len_max: usize, cache_tokens_max: usize) -> (Vec<u32>, Finish) {
    let prompt_length = request.prompt.len();
    let mut tokens = request.prompt.clone();
    loop {
        let token = sample(&tokens, prompt_length, &request.sampling);
        tokens.push(token);
        let generated = tokens.len() - prompt_length;
        if request.sampling.stop_token_ids.contains(&token) && generated >= request.sampling.min_tokens as usize {
            return (tokens.split_off(prompt_length), Finish::Stop);
        }
        if generated == request.max_tokens as usize || tokens.len() >= model_len_max || tokens.len() > cache_tokens_max
        {
            return (tokens.split_off(prompt_length), Finish::Length);
        }
    }
}

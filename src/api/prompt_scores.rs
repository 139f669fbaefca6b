//! What prompts' tokens were scored: collected as it arrives, told in vLLM's form.

use serde_json::{Map, Value, json};
use workers::link::report::Logprobs;

use super::{
    generation::{Generation, Prompt},
    logprobs::{LOWEST, TokenNames},
};

/// The log-probabilities of a request's prompts. Empty where none were asked for.
#[derive(Debug, Default)]
pub struct PromptScores {
    /// `prompt_logprobs`, where they are to be told by that name.
    alternatives: Option<u32>,
    /// Sequences of each prompt.
    per_prompt: usize,
    /// Each prompt's tokens.
    prompts: Vec<Vec<u32>>,
    /// Of each sequence: one for every token of its prompt but the first.
    scores: Vec<Vec<Logprobs>>,
}

impl PromptScores {
    /// Room for what will arrive for these prompts.
    pub fn new(generation: &Generation, prompts: &[(Prompt, u32)]) -> Self {
        if generation.scored_alternatives().is_none() {
            return Self::default();
        }
        let per_prompt = generation.candidates as usize;
        Self {
            alternatives: generation.prompt_logprobs,
            per_prompt,
            prompts: prompts.iter().map(|(prompt, _)| prompt.ids.clone()).collect(),
            scores: vec![Vec::new(); prompts.len() * per_prompt],
        }
    }

    /// More of a sequence's prompt.
    pub fn take(&mut self, sequence: usize, mut scores: Vec<Logprobs>) {
        if let Some(own) = self.scores.get_mut(sequence) {
            own.append(&mut scores);
        }
    }

    /// A sequence's prompt: each token with its score; the first has none, as nothing is before it.
    pub fn of(&self, sequence: usize) -> impl Iterator<Item = (u32, Option<&Logprobs>)> {
        let prompt = sequence.checked_div(self.per_prompt).and_then(|prompt| self.prompts.get(prompt));
        let ids = prompt.map_or(&[] as &[u32], Vec::as_slice);
        let scores = self.scores.get(sequence).map_or(&[] as &[Logprobs], Vec::as_slice);
        ids.iter().copied().zip(std::iter::once(None).chain(scores.iter().map(Some)))
    }

    /// vLLM's `prompt_logprobs`: null for the first token, for each other `{id: {logprob, rank, decoded_token}}` of the
    /// token itself and of the likeliest ones. None where it wasn't asked for.
    pub fn told(&self, sequence: usize, names: &TokenNames) -> Option<Value> {
        let alternatives = self.alternatives? as usize;
        let entry = |(token, score): (u32, Option<&Logprobs>)| {
            score.map_or(Value::Null, |score| one_position(token, score, alternatives, names))
        };
        Some(self.of(sequence).map(entry).collect())
    }
}

fn one_position(token: u32, score: &Logprobs, alternatives: usize, names: &TokenNames) -> Value {
    let mut entries = Map::new();
    let mut add = |token: u32, logprob: f32, rank: usize| {
        let entry = json!({"logprob": logprob.max(LOWEST), "rank": rank, "decoded_token": names.text(token)});
        entries.insert(token.to_string(), entry);
    };
    add(token, score.sampled, score.rank as usize + 1);
    for (index, &(other, logprob)) in score.top.iter().take(alternatives).enumerate() {
        if other != token {
            add(other, logprob, index + 1);
        }
    }
    Value::Object(entries)
}

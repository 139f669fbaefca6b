//! Drafts: whatever they hold, a sequence's tokens are those that come without.

use workers::link::report::{Outcome, StepReport};
use workers::link::sampling::Sampling;
use workers::link::step::{Chunk, NewSequence, SequenceId};

use crate::group::{Ranks, chunk};
use crate::{alone, creative, greedy, prompt};

/// As many as a sequence of [`Ranks`] has room for.
const TOKENS: usize = 15;

/// A sequence and the tokens that it gets when nobody drafts.
struct Known {
    id: u64,
    tokens: Vec<u32>,
    sampling: Sampling,
    computed: usize,
    length: usize,
}

impl Known {
    fn new(world_size: usize, id: u64, sampling: Sampling) -> Self {
        let prompt = prompt(10 + id as u32);
        let answer = alone(world_size, &prompt, &sampling, TOKENS);
        Self { id, tokens: [&prompt[..], &answer].concat(), sampling, computed: 0, length: prompt.len() }
    }

    fn introduce(&self) -> NewSequence {
        let (tokens, prompt_length) = (self.tokens[..self.length].to_vec(), self.length as u32);
        NewSequence { id: SequenceId(self.id), tokens, prompt_length, sampling: self.sampling.clone(), pooling: None }
    }

    /// Its next chunk, without a draft.
    fn plain(&self) -> Chunk {
        chunk(self.id, self.computed, self.length, true)
    }

    /// The same, with a draft of which the first `right` tokens are right, and one more that is not.
    fn drafted(&self, right: usize) -> Chunk {
        let right = right.min(self.tokens.len() - self.length - 1);
        let after = self.tokens[self.length..].iter().take(right).copied();
        let wrong = self.tokens.get(self.length + right).map(|token| (token + 1) % 900);
        Chunk { draft: after.chain(wrong).collect(), ..self.plain() }
    }

    /// Takes in what a report says, and checks it.
    fn hear(&mut self, report: &StepReport, right: usize) {
        let sampled = report.tokens.iter().find(|sampled| sampled.id.0 == self.id).expect("it was sampled");
        let tokens: Vec<u32> = sampled.outcomes.iter().filter_map(Outcome::token).collect();
        let after = &self.tokens[self.length..];
        assert_eq!(tokens, after[..(right + 1).min(after.len())], "sequence {} behind {}", self.id, self.length);
        self.length += tokens.len();
        self.computed = self.length - 1;
    }

    fn is_done(&self) -> bool {
        self.length >= self.tokens.len()
    }
}

#[test]
fn a_draft_changes_no_token() {
    for world_size in [1, 2] {
        let mut ranks = Ranks::start("llama3_rope", world_size);
        let logprobs = Sampling { logprobs: Some(1), ..creative(5) };
        let samplings = [greedy(), creative(7), logprobs, Sampling { temperature: 0.9, ..greedy() }];
        let mut all: Vec<Known> =
            samplings.into_iter().zip(1..).map(|(sampling, id)| Known::new(world_size, id, sampling)).collect();
        all.iter().for_each(|known| ranks.meet(known.introduce()));
        for round in 0.. {
            let running: Vec<usize> = (0..all.len()).filter(|&index| !all[index].is_done()).collect();
            if running.is_empty() {
                break;
            }
            // Each sequence has its own number of right tokens, none among them; the last goes without a draft at times.
            let right = |index: usize| (round + index) % 4;
            let drafts = |index: usize| index < 3 || round % 2 == 0;
            let batch = running.iter().map(|&index| match drafts(index) {
                true => all[index].drafted(right(index)),
                false => all[index].plain(),
            });
            let report = ranks.step(batch.collect());
            for &index in &running {
                all[index].hear(&report, if drafts(index) { right(index) } else { 0 });
            }
        }
    }
}

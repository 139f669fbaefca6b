//! The other half of a step: what its report means for the sequences.

use workers::link::{
    report::{Logprobs, Outcome, StepReport},
    step::Chunk,
};

use super::{Scheduler, making::InFlight};
use crate::engine::{
    RanksError,
    block_pool::BlockPool,
    request::{Event, Finish},
    sequence::Sequence,
};

/// What a report says of one chunk.
#[derive(Default)]
struct Answer {
    /// In order; none where no token was to be chosen.
    outcomes: Vec<Outcome>,
    scores: Option<Vec<Logprobs>>,
    embedding: Option<Vec<f32>>,
}

impl Scheduler {
    /// Takes in the report of the oldest step on its way. An answer to something else than was asked changes nothing.
    pub fn settle(&mut self, report: StepReport) -> Result<(), RanksError> {
        let published = self.in_flight.pop_front().ok_or_else(|| unasked(&report))?;
        if !is_answer(&report, &published) {
            self.in_flight.push_front(published);
            return Err(unasked(&report));
        }
        let InFlight { step, parts } = published;
        let mut tokens = report.tokens.into_iter();
        let mut scores = report.prompt_logprobs.into_iter();
        let mut embeddings = report.embeddings.into_iter();
        for (chunk, part) in step.batch.iter().zip(parts) {
            let answer = Answer {
                outcomes: if chunk.samples { tokens.next().map(|sampled| sampled.outcomes) } else { None }
                    .unwrap_or_default(),
                scores: if chunk.scored.is_empty() { None } else { scores.next().map(|scored| scored.entries) },
                embedding: if part.pools { embeddings.next().map(|embedding| embedding.values) } else { None },
            };
            // One that was cancelled or preempted meanwhile, perhaps to come back by another name, is of no interest.
            if let Some(index) = self.place(part.urgency).filter(|&index| self.running[index].id == chunk.id) {
                self.settle_chunk(index, chunk, answer);
            }
        }
        self.remove_ended();
        self.counts.add_step(step.rows() as u64);
        Ok(())
    }

    fn settle_chunk(&mut self, index: usize, chunk: &Chunk, answer: Answer) {
        let sequence = &mut self.running[index];
        let (start, end) = (chunk.start as usize, (chunk.start + chunk.count) as usize);
        let prompt_length = sequence.prompt_length;
        self.counts.prompt_tokens += (end.min(prompt_length) - start.min(prompt_length)) as u64;
        let put_off = matches!(answer.outcomes[..], [Outcome::Deferred]);
        sequence.computed = end - usize::from(put_off);
        sequence.settled(end);
        if let Some(entries) = answer.scores {
            sequence.scored = sequence.scored.map(|before| before + entries.len());
            self.events.push((sequence.key, Event::PromptLogprobs(entries)));
        }
        if let Some(values) = answer.embedding {
            self.events.push((sequence.key, Event::Embedding(values)));
            sequence.ended = Some(Event::Finished(Finish::Pooled));
        }
        self.settle_draft(index, chunk, &answer.outcomes);
        for outcome in answer.outcomes {
            self.settle_choice(index, outcome);
        }
        let sequence = &mut self.running[index];
        sequence.sampling_steps -= usize::from(chunk.samples);
        if self.limits.prefix_caching {
            remember_full_blocks(&mut self.blocks, sequence);
        }
    }

    /// Takes in how much of a draft was right, and what came of a forecast.
    fn settle_draft(&mut self, index: usize, chunk: &Chunk, outcomes: &[Outcome]) {
        let sequence = &mut self.running[index];
        let forecast = std::mem::take(&mut sequence.forecast);
        if let Some(speculation) = &mut self.speculation {
            let tokens: Vec<u32> = outcomes.iter().filter_map(Outcome::token).collect();
            speculation.came(&forecast, &tokens);
        }
        if !chunk.draft.is_empty() {
            let right = outcomes.len() - 1;
            sequence.computed += right;
            (sequence.scheduled, sequence.drafted) = (sequence.computed, 0);
            self.counts.drafts += 1;
            self.counts.draft_tokens += chunk.draft.len() as u64;
            self.counts.accepted_tokens += right as u64;
        }
    }

    /// Whatever comes after a sequence's end is of no interest.
    fn settle_choice(&mut self, index: usize, outcome: Outcome) {
        let sequence = &mut self.running[index];
        if sequence.ended.is_some() {
            return;
        }
        match outcome {
            Outcome::Chosen { token, logprobs, confident } => {
                sequence.push(token, confident);
                self.counts.generation_tokens += 1;
                self.events.push((sequence.key, Event::Token { token, logprobs }));
            }
            Outcome::Deferred => {
                sequence.scheduled = sequence.computed;
                sequence.held = true;
                self.deferred.push(sequence.key);
                self.counts.deferrals += 1;
            }
            Outcome::NothingLeft => {
                sequence.fail("all that asks for or forbids tokens, together, leaves none to choose")
            }
        }
    }

    fn remove_ended(&mut self) {
        for sequence in self.running.extract_if(.., |sequence| sequence.ended.is_some()) {
            self.blocks.release(&sequence.blocks);
            self.forgotten.push(sequence.id);
            self.counts.finished += u64::from(matches!(sequence.ended, Some(Event::Finished(_))));
            self.events.extend(sequence.ended.map(|ended| (sequence.key, ended)));
        }
    }
}

/// Whether a report is about this step, and says as much as was asked for.
fn is_answer(report: &StepReport, InFlight { step, parts }: &InFlight) -> bool {
    let sampled = step.batch.iter().filter(|chunk| chunk.samples);
    let scored = step.batch.iter().filter(|chunk| !chunk.scored.is_empty()).map(|chunk| (chunk.id, chunk.scored.len()));
    let pooled = step.batch.iter().zip(parts).filter(|(_, part)| part.pools).map(|(chunk, _)| chunk.id);
    report.step == step.number
        && sampled.clone().count() == report.tokens.len()
        && sampled.zip(&report.tokens).all(|(chunk, sampled)| chunk.id == sampled.id && fits(chunk, &sampled.outcomes))
        && scored.eq(report.prompt_logprobs.iter().map(|scored| (scored.id, scored.entries.len())))
        && pooled.eq(report.embeddings.iter().map(|embedding| embedding.id))
}

/// Whether so much may come of a chunk: a token, or none, and before it what of its draft is right.
fn fits(chunk: &Chunk, outcomes: &[Outcome]) -> bool {
    let Some((_, before)) = outcomes.split_last() else { return false };
    before.len() <= chunk.draft.len()
        && before.iter().map(Outcome::token).eq(chunk.draft.iter().take(before.len()).map(|&token| Some(token)))
}

fn remember_full_blocks(blocks: &mut BlockPool, sequence: &mut Sequence) {
    // One that has come to its end may have more computed than it has tokens.
    let full = sequence.computed.min(sequence.tokens.len()) / blocks.block_size();
    while sequence.remembered < full {
        let index = sequence.remembered;
        let prefix = sequence.prefixes(index + 1, blocks.block_size())[index];
        blocks.remember(sequence.blocks[index], prefix);
        sequence.remembered += 1;
    }
}

fn unasked(report: &StepReport) -> RanksError {
    let text = format!("a report of step {} with {} tokens was not asked for", report.step, report.tokens.len());
    RanksError::Protocol(text)
}

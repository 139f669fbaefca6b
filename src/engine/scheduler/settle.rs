//! The other half of a step: what its report means for the sequences.

use workers::link::{
    report::{Outcome, SampledToken, StepReport},
    step::Chunk,
};

use super::Scheduler;
use crate::engine::{RanksError, block_pool::BlockPool, request::Event, sequence::Sequence};

impl Scheduler {
    /// Takes in the report of the oldest step on its way. An answer to something else than was asked changes nothing.
    pub fn settle(&mut self, report: StepReport) -> Result<(), RanksError> {
        let step = self.in_flight.pop_front().ok_or_else(|| unasked(&report))?;
        let asked = step.batch.iter().filter(|chunk| chunk.samples).map(|chunk| chunk.id);
        if report.step != step.number || !asked.eq(report.tokens.iter().map(|sampled| sampled.id)) {
            self.in_flight.push_front(step);
            return Err(unasked(&report));
        }
        let mut tokens = report.tokens.into_iter();
        for chunk in &step.batch {
            let sampled = if chunk.samples { tokens.next() } else { None };
            // One that was cancelled or preempted meanwhile is of no interest any more.
            if let Ok(index) = self.running.binary_search_by_key(&chunk.id, |sequence| sequence.id) {
                self.settle_chunk(index, chunk, sampled);
            }
        }
        self.remove_finished();
        self.counts.steps += 1;
        Ok(())
    }

    fn settle_chunk(&mut self, index: usize, chunk: &Chunk, sampled: Option<SampledToken>) {
        let sequence = &mut self.running[index];
        let (start, end) = (chunk.start as usize, (chunk.start + chunk.count) as usize);
        let prompt_length = sequence.prompt_length;
        self.counts.prompt_tokens += (end.min(prompt_length) - start.min(prompt_length)) as u64;
        sequence.computed = end;
        if self.limits.prefix_caching {
            remember_full_blocks(&mut self.blocks, sequence);
        }
        if let Some(SampledToken { outcome: Outcome::Chosen { token, logprobs, .. }, .. }) = sampled {
            sequence.sampling_steps -= 1;
            sequence.push(token);
            self.counts.generation_tokens += 1;
            self.events.push((sequence.key, Event::Token { token, logprobs }));
        }
    }

    fn remove_finished(&mut self) {
        for sequence in self.running.extract_if(.., |sequence| sequence.finish.is_some()) {
            self.blocks.release(&sequence.blocks);
            self.forgotten.push(sequence.id);
            self.counts.finished += 1;
            self.events.extend(sequence.finish.map(|finish| (sequence.key, Event::Finished(finish))));
        }
    }
}

fn remember_full_blocks(blocks: &mut BlockPool, sequence: &mut Sequence) {
    let full = sequence.computed / blocks.block_size();
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

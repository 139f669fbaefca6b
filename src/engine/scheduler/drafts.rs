//! What a step carries beside its chunks: drafts of those who decode, as far as they are worth their rows.

use std::time::Duration;

use workers::link::step::Chunk;

use super::{Making, Scheduler, take_blocks};

impl Scheduler {
    /// The oldest step on its way took so long. What drafts are worth is judged by that, where no prompt is read.
    pub fn took(&mut self, time: Duration) {
        let (Some(speculation), Some(published)) = (&mut self.speculation, self.in_flight.front()) else { return };
        if published.step.batch.iter().all(only_decodes) {
            speculation.took(published.step.rows(), time.as_secs_f64());
        }
    }

    /// Gives drafts to those who decode, as far as they are worth it and the step has room: nobody loses blocks for them.
    pub(super) fn speculate(&mut self, making: &mut Making) {
        let Some(mut speculation) = self.speculation.take() else { return };
        let settings = speculation.settings();
        let tokens = making.step.batch.iter().filter(|chunk| chunk.samples).count();
        let mut drafting = speculation.draft(making.step.rows(), tokens);
        for (chunk, part) in making.step.batch.iter_mut().zip(&making.parts).filter(|(chunk, _)| only_decodes(chunk)) {
            let Some(index) = self.place(part.urgency) else { continue };
            let room = making.budget.min(self.room(index));
            let sequence = &mut self.running[index];
            if !sequence.look_ahead(settings) {
                continue;
            }
            let count = drafting.worth(&sequence.forecast, room);
            chunk.draft = sequence.forecast.tokens[..count].to_vec();
            take_blocks(&mut self.blocks, sequence, sequence.scheduled + count, &mut chunk.new_blocks);
            sequence.drafted = count;
            making.budget -= count;
        }
        drop(drafting);
        self.speculation = Some(speculation);
    }
}

/// Whether its sequence gets its next token by computing the last, and no prompt is read.
fn only_decodes(chunk: &Chunk) -> bool {
    chunk.samples && chunk.count == 1
}

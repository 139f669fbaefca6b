//! What a prompt's own hidden states are wanted for: scoring its tokens, or pooling it into one vector.

use kernels::Backend;

use super::{Rank, RankError};
use crate::batch::{Pooled, Scored};
use crate::link::report::{Embedding, PromptLogprobs};
use crate::link::step::SequenceId;
use crate::models::HiddenStates;

/// Rows that go through norm and head at once: the logits of a whole prompt would be gigabytes.
const ROWS_MAX: usize = 64;

/// One prompt token to score.
#[derive(Clone, Copy)]
struct Target {
    id: SequenceId,
    /// Where its logits come from, in the flat batch.
    row: u32,
    /// The position of that row.
    position: u32,
}

impl<B: Backend> Rank<B> {
    /// Log-probabilities of prompt tokens, given those before. All ranks compute the logits, rank 0 reads them.
    pub(super) fn score(
        &mut self,
        scored: &[Scored],
        hidden: &HiddenStates<B>,
    ) -> Result<Vec<PromptLogprobs>, RankError> {
        let mut reports: Vec<PromptLogprobs> = Vec::new();
        let targets: Vec<Target> = scored.iter().flat_map(targets).collect();
        for targets in targets.chunks(ROWS_MAX) {
            let rows: Vec<u32> = targets.iter().map(|target| target.row).collect();
            let logits = self.device.all_gather(self.logits(hidden, &rows)?)?;
            if self.reports {
                self.read_scores(targets, &self.device.to_host(&logits)?, &mut reports)?;
            }
        }
        Ok(reports)
    }

    fn read_scores(
        &mut self,
        targets: &[Target],
        logits: &[f32],
        reports: &mut Vec<PromptLogprobs>,
    ) -> Result<(), RankError> {
        let vocab_size = self.sequences.limits().vocab_size;
        for (&Target { id, position, .. }, row) in targets.iter().zip(logits.chunks_exact(logits.len() / targets.len()))
        {
            let sequence = self.sequences.get(id)?;
            let next = sequence.tokens[position as usize + 1];
            let alternatives = sequence.sampling.prompt_alternatives as usize;
            let entry = self.sampler.score(&row[..vocab_size], next as usize, alternatives);
            let entry = entry.map_err(|source| RankError::Sampler { id, source })?;
            match reports.last_mut().filter(|report| report.id == id) {
                Some(report) => report.entries.push(entry),
                None => reports.push(PromptLogprobs { id, entries: vec![entry] }),
            }
        }
        Ok(())
    }

    /// All ranks compute the normed hidden states, rank 0 pools them.
    pub(super) fn pool(&mut self, pooled: &[Pooled], hidden: &HiddenStates<B>) -> Result<Vec<Embedding>, RankError> {
        let mut embeddings = Vec::new();
        for Pooled { id, rows, ends } in pooled {
            let rows: Vec<u32> = rows.clone().collect();
            for rows in rows.chunks(ROWS_MAX) {
                let normed = self.model.normed(&self.device, hidden.select(&self.device, rows)?)?;
                if let Some(pool) = self.sequences.pool(*id).filter(|_| self.reports) {
                    let normed = self.device.to_host(&normed)?;
                    pool.add(&normed, normed.len() / rows.len());
                }
            }
            if *ends && self.reports {
                let values = self.sequences.pool(*id).map(|pool| pool.vector()).unwrap_or_default();
                embeddings.push(Embedding { id: *id, values });
            }
        }
        Ok(embeddings)
    }
}

fn targets(scored: &Scored) -> impl Iterator<Item = Target> {
    let Scored { id, position, .. } = *scored;
    scored.rows.clone().zip(position..).map(move |(row, position)| Target { id, row, position })
}

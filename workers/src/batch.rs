//! A step becomes the flat batch that kernels read.

use std::collections::HashSet;
use std::ops::Range;

use kernels::Batch;

use crate::link::step::{Chunk, EMBEDDINGS_MAX, Pooling, SCORED_MAX, SequenceId, Step};
use crate::sequences::{Fault, Sequence, Sequences, StepError};

/// What one step computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// All its chunks, flat.
    pub batch: Batch,
    /// What is to come of it.
    pub wanted: Wanted,
}

/// What a step's rows are wanted for; each list in the order of the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Chunks in the step.
    pub chunks: usize,
    /// Where tokens are chosen: a sequence's places one behind the other, the first after its last token, the others after
    /// those of its draft.
    pub sampled: Vec<Place>,
    /// Parts of prompts whose tokens are to be scored.
    pub scored: Vec<Scored>,
    /// Chunks of sequences that become one vector.
    pub pooled: Vec<Pooled>,
}

/// Where a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whose token.
    pub id: SequenceId,
    /// The flat row that it comes from.
    pub row: u32,
    /// How many tokens come before it.
    pub length: usize,
}

/// A part of a prompt whose tokens are to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// Whose prompt.
    pub id: SequenceId,
    /// Where these rows lie in the flat batch.
    pub rows: Range<u32>,
    /// The first row's position in the prompt.
    pub position: u32,
}

/// A chunk of a sequence that becomes one vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooled {
    /// Which sequence.
    pub id: SequenceId,
    /// The rows to pool, in the flat batch.
    pub rows: Range<u32>,
    /// Whether nothing of the sequence is left after it.
    pub ends: bool,
}

impl Plan {
    /// Forgets and learns what `step` says, and lays out its chunks.
    pub fn of(step: &Step, sequences: &mut Sequences) -> Result<Self, StepError> {
        check_size(step, sequences)?;
        step.finished.iter().for_each(|&id| sequences.finish(id));
        step.started.iter().try_for_each(|new| sequences.start(new))?;
        let block_size = sequences.limits().block_size;
        let mut plan = Self::default();
        plan.batch.query_starts.push(0);
        for chunk in &step.batch {
            plan.push(chunk, sequences.advance(chunk)?, block_size);
        }
        let embeddings = plan.wanted.pooled.iter().filter(|pooled| pooled.ends).count();
        check_most("embeddings", embeddings, EMBEDDINGS_MAX)?;
        Ok(plan)
    }

    fn push(&mut self, chunk: &Chunk, sequence: &Sequence, block_size: usize) {
        let (start, end) = (chunk.start as usize, chunk.start as usize + chunk.rows());
        let slot =
            |position: usize| sequence.blocks[position / block_size] as usize * block_size + position % block_size;
        let Batch { tokens, positions, slot_mapping, query_starts, context_lengths, block_tables } = &mut self.batch;
        let first = tokens.len() as u32;
        tokens.extend_from_slice(&sequence.tokens[start..end]);
        positions.extend(start as u32..end as u32);
        slot_mapping.extend((start..end).map(|position| slot(position) as u32));
        query_starts.push(tokens.len() as u32);
        context_lengths.push(end as u32);
        block_tables.push(sequence.blocks[..end.div_ceil(block_size)].to_vec());
        self.wanted.push(chunk, sequence, first);
    }
}

impl Wanted {
    /// Whether all that is wanted is a token from each of the batch's `rows` rows: decoding, and nothing else.
    pub fn is_a_token_per_row(&self, rows: usize) -> bool {
        self.sampled.len() == rows && self.scored.is_empty() && self.pooled.is_empty()
    }

    /// Whether tokens are wanted, and nothing else.
    pub fn is_tokens_only(&self) -> bool {
        !self.sampled.is_empty() && self.scored.is_empty() && self.pooled.is_empty()
    }

    /// `first` is the chunk's first row.
    fn push(&mut self, chunk: &Chunk, sequence: &Sequence, first: u32) {
        let (id, after) = (chunk.id, first + chunk.count);
        self.chunks += 1;
        if chunk.samples {
            let lengths = sequence.length()..=sequence.tokens.len();
            self.sampled.extend((after - 1..).zip(lengths).map(|(row, length)| Place { id, row, length }));
        }
        if !chunk.scored.is_empty() {
            let row = |position| first + position - chunk.start;
            let rows = row(chunk.scored.start)..row(chunk.scored.end);
            self.scored.push(Scored { id, rows, position: chunk.scored.start });
        }
        let ends = (chunk.start + chunk.count) as usize == sequence.length();
        match sequence.pool.as_ref().map(|pool| pool.pooling()) {
            Some(Pooling::Mean) => self.pooled.push(Pooled { id, rows: first..after, ends }),
            Some(Pooling::Last) if ends => self.pooled.push(Pooled { id, rows: after - 1..after, ends }),
            Some(Pooling::Last) | None => {}
        }
    }
}

fn check_size(step: &Step, sequences: &Sequences) -> Result<(), StepError> {
    let drafted = step.batch.iter().map(|chunk| chunk.draft.len()).max().unwrap_or(0);
    let scored: usize = step.batch.iter().map(|chunk| chunk.scored.len()).sum();
    let limits = sequences.limits();
    check_most("tokens", step.rows(), limits.batch_tokens_max)?;
    check_most("sequences", step.batch.len(), limits.sequences_max)?;
    check_most("tokens of a draft", drafted, limits.draft_max)?;
    check_most("scored positions", scored, SCORED_MAX)?;
    let mut met = HashSet::with_capacity(step.batch.len());
    match step.batch.iter().find(|chunk| !met.insert(chunk.id)) {
        Some(chunk) => Err(StepError::Sequence { id: chunk.id, fault: Fault::ComputedTwice }),
        None => Ok(()),
    }
}

fn check_most(what: &'static str, found: usize, limit: usize) -> Result<(), StepError> {
    if found > limit { Err(StepError::TooLarge { what, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::sampling::Sampling;
    use crate::link::step::NewSequence;
    use crate::sequences::Limits;

    const LIMITS: Limits = Limits {
        vocab_size: 100,
        max_model_len: 20,
        batch_tokens_max: 12,
        sequences_max: 3,
        draft_max: 2,
        block_size: 4,
        kv_blocks: 8,
    };

    fn new(id: u64, tokens: &[u32]) -> NewSequence {
        let (tokens, prompt_length) = (tokens.to_vec(), tokens.len() as u32);
        NewSequence { id: SequenceId(id), tokens, prompt_length, ..NewSequence::default() }
    }

    fn chunk(id: u64, start: u32, count: u32, new_blocks: &[u32], samples: bool) -> Chunk {
        Chunk { id: SequenceId(id), start, count, new_blocks: new_blocks.to_vec(), samples, ..Chunk::default() }
    }

    fn step(started: Vec<NewSequence>, batch: Vec<Chunk>) -> Step {
        Step { number: 1, finished: Vec::new(), started, batch }
    }

    #[test]
    fn chunks_and_decodes_lie_flat() {
        let mut sequences = Sequences::new(LIMITS);
        let prompts = vec![new(1, &[10, 11, 12, 13, 14, 15]), new(2, &[20, 21, 22])];
        let batch = vec![chunk(1, 0, 5, &[7, 2], false), chunk(2, 0, 3, &[0], true)];
        let plan = Plan::of(&step(prompts, batch), &mut sequences).expect("a good step");
        let expected = Batch {
            tokens: vec![10, 11, 12, 13, 14, 20, 21, 22],
            positions: vec![0, 1, 2, 3, 4, 0, 1, 2],
            slot_mapping: vec![28, 29, 30, 31, 8, 0, 1, 2],
            query_starts: vec![0, 5, 8],
            context_lengths: vec![5, 3],
            block_tables: vec![vec![7, 2], vec![0]],
        };
        assert_eq!((plan.batch, plan.wanted.sampled), (expected, vec![Place { id: SequenceId(2), row: 7, length: 3 }]));

        sequences.append(SequenceId(2), 23).expect("known");
        let third = new(3, &[10, 11, 12, 13, 30]); // its first block is found in the cache
        let batch = vec![chunk(2, 3, 1, &[], true), chunk(1, 5, 1, &[], true), chunk(3, 4, 1, &[7, 5], true)];
        let plan = Plan::of(&step(vec![third], batch), &mut sequences).expect("a good step");
        let expected = Batch {
            tokens: vec![23, 15, 30],
            positions: vec![3, 5, 4],
            slot_mapping: vec![3, 9, 20],
            query_starts: vec![0, 1, 2, 3],
            context_lengths: vec![4, 6, 5],
            block_tables: vec![vec![0], vec![7, 2], vec![7, 5]],
        };
        let sampled =
            [(2, 0, 4), (1, 1, 6), (3, 2, 5)].map(|(id, row, length)| Place { id: SequenceId(id), row, length });
        assert_eq!((plan.batch, plan.wanted.sampled), (expected, sampled.to_vec()));
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let check = |started: &[NewSequence], batch: &[Chunk], expected: &str| {
            let mut sequences = Sequences::new(LIMITS);
            let known = vec![new(1, &[1, 2, 3, 4, 5, 6])];
            Plan::of(&step(known, vec![chunk(1, 0, 3, &[0], false)]), &mut sequences).expect("a good step");
            let error = Plan::of(&step(started.to_vec(), batch.to_vec()), &mut sequences).expect_err("nonsense");
            assert_eq!(error.to_string(), expected);
        };
        check(&[], &[chunk(9, 0, 1, &[1], false)], "sequence 9: is computed, but was never started");
        check(&[new(1, &[1])], &[], "sequence 1: was started twice");
        check(&[], &[chunk(1, 3, 1, &[], false), chunk(1, 4, 1, &[1], false)], "sequence 1: is twice in one step");
        check(&[new(2, &[])], &[], "sequence 2: has 0 tokens, 0 of them as its prompt");
        check(
            &[NewSequence { prompt_length: 2, ..new(2, &[1]) }],
            &[],
            "sequence 2: has 1 tokens, 2 of them as its prompt",
        );
        check(&[new(2, &[1; 21])], &[], "sequence 2: has 21 tokens, the model is loaded for 20");
        check(&[new(2, &[1, 100])], &[], "sequence 2: has token 100, the model knows 100");
        let range = |range: &str| format!("sequence 1: is to compute tokens {range}, 3 of its 6 are computed");
        check(&[], &[chunk(1, 2, 1, &[], false)], &range("2..3"));
        check(&[], &[chunk(1, 4, 1, &[1], false)], &range("4..5"));
        check(&[], &[chunk(1, 3, 0, &[], false)], &range("3..3"));
        check(&[], &[chunk(1, 3, 4, &[1], true)], &range("3..7"));
        check(&[], &[chunk(1, 3, 1, &[], true)], "sequence 1: is to be sampled after token 4 of 6");
        check(&[], &[chunk(1, 3, 2, &[8], false)], "sequence 1: has block 8, the pool has 8");
        check(&[], &[chunk(1, 3, 3, &[], true)], "sequence 1: has 1 blocks of 4, too few for 6 tokens");
        check(&[], &[chunk(1, 3, 13, &[], true)], "a step with 13 tokens, at most 12 were agreed");
        check(
            &[],
            &[1, 2, 3, 4].map(|id| chunk(id, 0, 1, &[], true)),
            "a step with 4 sequences, at most 3 were agreed",
        );
        let scored = |start: u32, end: u32| Chunk { scored: start..end, ..chunk(1, 3, 2, &[1], false) };
        let unscorable = |range: &str| {
            format!(
                "sequence 1: is to be scored at {range}, which is not in its chunk or not before the prompt's last token"
            )
        };
        check(&[], &[scored(2, 4)], &unscorable("2..4"));
        check(&[], &[scored(3, 6)], &unscorable("3..6"));
        check(&[], &[scored(0, u32::MAX)], "a step with 4294967295 scored positions, at most 8192 were agreed");
        let whole = Chunk { scored: 3..6, ..chunk(1, 3, 3, &[1], false) };
        check(&[], &[whole], &unscorable("3..6"));
        let drafted = |draft: &[u32], samples| Chunk { draft: draft.to_vec(), ..chunk(1, 3, 3, &[1], samples) };
        check(&[], &[drafted(&[7, 8, 9], true)], "a step with 3 tokens of a draft, at most 2 were agreed");
        check(&[], &[drafted(&[7, 100], true)], "sequence 1: has token 100, the model knows 100");
        check(&[], &[drafted(&[7], false)], "sequence 1: has a draft, but is not sampled, or is guided");
        let full = Chunk { draft: vec![7], ..chunk(2, 0, 4, &[1], true) };
        check(&[new(2, &[1; 4])], &[full], "sequence 2: has 1 blocks of 4, too few for 5 tokens");
        let long = Chunk { draft: vec![7], ..chunk(2, 19, 1, &[1, 2, 3, 4, 5], true) };
        check(&[new(2, &[1; 20])], &[long], "sequence 2: has 21 tokens, the model is loaded for 20");
        let guided = Sampling { guided: true, ..Sampling::default() };
        let guided = NewSequence { sampling: guided, ..new(2, &[1]) };
        let draft = Chunk { draft: vec![7], ..chunk(2, 0, 1, &[1], true) };
        check(&[guided], &[draft], "sequence 2: has a draft, but is not sampled, or is guided");
        let pooled = |pooling| NewSequence { pooling: Some(pooling), ..new(2, &[1, 2, 3]) };
        let sampled = "sequence 2: is to be sampled, but was started to be pooled";
        check(&[pooled(Pooling::Last)], &[chunk(2, 0, 3, &[1], true)], sampled);
        let late = "sequence 2: is to be pooled over all its tokens, but begins at token 1";
        check(&[pooled(Pooling::Mean)], &[chunk(2, 1, 2, &[1], false)], late);
        let huge = chunk(1, u32::MAX, 12, &[], false);
        check(&[], &[huge], &range("4294967295..4294967307"));
    }

    #[test]
    fn rows_are_found_for_what_they_are_wanted_for() {
        let mut sequences = Sequences::new(LIMITS);
        let pooled = |id, pooling| NewSequence { pooling: Some(pooling), ..new(id, &[1, 2, 3]) };
        let started = vec![new(1, &[9; 6]), pooled(2, Pooling::Mean), pooled(3, Pooling::Last)];
        let score = |chunk: Chunk, scored| Chunk { scored, ..chunk };
        let batch =
            vec![chunk(2, 0, 2, &[0], false), chunk(3, 0, 2, &[1], false), score(chunk(1, 0, 4, &[2], false), 1..4)];
        let plan = Plan::of(&step(started, batch), &mut sequences).expect("a good step");
        let expected = Wanted {
            chunks: 3,
            sampled: vec![],
            scored: vec![Scored { id: SequenceId(1), rows: 5..8, position: 1 }],
            pooled: vec![Pooled { id: SequenceId(2), rows: 0..2, ends: false }],
        };
        assert_eq!(plan.wanted, expected);
        let batch =
            vec![score(chunk(1, 4, 2, &[3], true), 4..5), chunk(2, 2, 1, &[], false), chunk(3, 2, 1, &[], false)];
        let plan = Plan::of(&step(vec![], batch), &mut sequences).expect("a good step");
        let pooled = |id, row: u32| Pooled { id: SequenceId(id), rows: row..row + 1, ends: true };
        let expected = Wanted {
            chunks: 3,
            sampled: vec![Place { id: SequenceId(1), row: 1, length: 6 }],
            scored: vec![Scored { id: SequenceId(1), rows: 0..1, position: 4 }],
            pooled: vec![pooled(2, 2), pooled(3, 3)],
        };
        assert_eq!(plan.wanted, expected);
    }

    #[test]
    fn of_a_draft_what_is_right_is_kept() {
        let id = SequenceId(1);
        let draft = |start, count, draft: &[u32]| Chunk { draft: draft.to_vec(), ..chunk(1, start, count, &[], true) };
        let mut sequences = Sequences::new(LIMITS);
        let first = Chunk { new_blocks: vec![7, 2], ..draft(0, 3, &[13, 14]) };
        let plan = Plan::of(&step(vec![new(1, &[10, 11, 12])], vec![first]), &mut sequences).expect("a good step");
        let expected = Batch {
            tokens: vec![10, 11, 12, 13, 14],
            positions: vec![0, 1, 2, 3, 4],
            slot_mapping: vec![28, 29, 30, 31, 8],
            query_starts: vec![0, 5],
            context_lengths: vec![5],
            block_tables: vec![vec![7, 2]],
        };
        let places = [(2, 3), (3, 4), (4, 5)].map(|(row, length)| Place { id, row, length });
        assert_eq!((plan.batch, plan.wanted.sampled), (expected, places.to_vec()));
        let error = Plan::of(&step(vec![], vec![chunk(1, 3, 2, &[], true)]), &mut sequences.clone());
        let undecided = "sequence 1: is computed further, and its draft was not decided on";
        assert_eq!(error.expect_err("half of it may be wrong").to_string(), undecided);

        assert_eq!(sequences.decide(id, &[13, 99, 14]), Ok(1));
        sequences.append(id, 99).expect("known");
        let plan = Plan::of(&step(vec![], vec![draft(4, 1, &[15])]), &mut sequences).expect("behind what was right");
        assert_eq!((plan.batch.tokens, plan.batch.positions), (vec![99, 15], vec![4, 5]));
        assert_eq!(sequences.decide(id, &[16, 0]), Ok(0));
        sequences.append(id, 16).expect("known");
        let plan = Plan::of(&step(vec![], vec![draft(5, 1, &[17, 18])]), &mut sequences).expect("a good step");
        assert_eq!((plan.batch.tokens, plan.batch.positions), (vec![16, 17, 18], vec![5, 6, 7]));
        assert_eq!(sequences.decide(id, &[17, 18, 19]), Ok(2));
        assert_eq!(sequences.get(id).expect("known").tokens, [10, 11, 12, 13, 99, 16, 17, 18]);
    }

    #[test]
    fn what_a_report_can_carry_bounds_a_step() {
        let limits =
            Limits { batch_tokens_max: 20_000, max_model_len: 20_000, sequences_max: 100, kv_blocks: 5000, ..LIMITS };
        let blocks: Vec<u32> = (0..5000).collect();
        let scored = |end| Chunk { scored: 0..end, ..chunk(1, 0, 9000, &blocks, false) };
        let refused = |started, batch| Plan::of(&step(started, batch), &mut Sequences::new(limits)).map(|_| ());
        assert_eq!(refused(vec![new(1, &[1; 9000])], vec![scored(SCORED_MAX as u32)]), Ok(()));
        let error = refused(vec![new(1, &[1; 9000])], vec![scored(SCORED_MAX as u32 + 1)]).expect_err("too many");
        assert_eq!(error.to_string(), "a step with 8193 scored positions, at most 8192 were agreed");
        let pooled = |count: u64| {
            let new = |id| NewSequence { pooling: Some(Pooling::Last), ..new(id, &[1]) };
            let chunks = (0..count).map(|id| chunk(id, 0, 1, &[0], false));
            refused((0..count).map(new).collect(), chunks.collect())
        };
        assert_eq!(pooled(EMBEDDINGS_MAX as u64), Ok(()));
        let error = pooled(EMBEDDINGS_MAX as u64 + 1).expect_err("too many");
        assert_eq!(error.to_string(), "a step with 65 embeddings, at most 64 were agreed");
    }

    #[test]
    fn forgotten_sequences_are_unknown() {
        let mut sequences = Sequences::new(LIMITS);
        Plan::of(&step(vec![new(1, &[1])], vec![]), &mut sequences).expect("a good step");
        let forget = Step { finished: vec![SequenceId(1), SequenceId(5)], ..step(vec![], vec![]) };
        Plan::of(&forget, &mut sequences).expect("forgetting the unknown is no fault");
        assert!(sequences.get(SequenceId(1)).is_err());
    }

    #[test]
    fn a_sequence_cannot_grow_beyond_the_model() {
        let mut sequences = Sequences::new(Limits { batch_tokens_max: 32, ..LIMITS });
        let blocks = [0, 1, 2, 3, 4, 5];
        Plan::of(&step(vec![new(1, &[1; 20])], vec![chunk(1, 0, 20, &blocks, true)]), &mut sequences).expect("fits");
        sequences.append(SequenceId(1), 2).expect("known");
        let error = Plan::of(&step(vec![], vec![chunk(1, 20, 1, &[], true)]), &mut sequences).expect_err("too long");
        assert_eq!(error.to_string(), "sequence 1: has 21 tokens, the model is loaded for 20");
        assert!(sequences.append(SequenceId(1), 100).is_err(), "a token that the model does not know");
    }
}

//! Repeating on a GPU: a graph per size of batch and length of context.
//!
//! A batch is filled up to the next size with copies of its first sequence, which write no key and whose results nobody
//! reads: copies go to the same experts, so that no weights are read for them alone. The first batch of a size is
//! computed, which loads what kernels there are and takes what memory is needed; the second is recorded; from then on
//! it is one call.

use std::collections::HashMap;

use super::Repeat;
use crate::{
    Batch, Result,
    cuda::{Cuda, DeviceBatch, Graph, NO_SLOT, Tensor, TensorPlace},
};

/// The largest batch that is recorded: beyond it, kernels take longer than their start.
const SEQUENCES_MAX: usize = 256;

/// The shortest context that a recording is made for, tokens.
const CONTEXT_MIN: usize = 256;

/// All that was recorded on a device.
#[derive(Default)]
pub(crate) struct Recordings {
    by_size: HashMap<Size, Recording>,
}

/// What a recording depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Size {
    sequences: usize,
    context: usize,
    /// Entries of a sequence in the block tables.
    blocks: usize,
}

/// One size, by how far it has come.
enum Recording {
    /// Computed once.
    Seen(DeviceBatch),
    /// Recorded: the graph reads its batch there and leaves its result there.
    Made { batch: DeviceBatch, graph: Graph, result: TensorPlace },
    /// It can't be recorded.
    Refused,
}

impl Repeat for Cuda {
    fn repeat(&self, batch: Batch, compute: &mut dyn FnMut(&DeviceBatch) -> Result<Tensor>) -> Result<Tensor> {
        // One query each, or some of a draft: apart, they are all the same to a recording, and to the kernels for decoding.
        let batch = if batch.tokens.len() <= SEQUENCES_MAX { batch.apart() } else { batch };
        let Some(size) = Size::of(&batch).filter(|_| self.records()) else {
            return compute(&self.upload_batch(batch)?);
        };
        let mut recordings = self.recordings();
        let padded = size.fill(batch);
        match recordings.by_size.remove(&size) {
            None => {
                let batch = self.lasting_batch(padded, size.blocks, size.context)?;
                let result = compute(&batch)?;
                recordings.by_size.insert(size, Recording::Seen(batch));
                Ok(result)
            }
            Some(Recording::Seen(mut batch)) => {
                self.refill(&mut batch, padded)?;
                match self.record(|| compute(&batch))? {
                    Some((graph, result)) => {
                        self.replay(&graph)?;
                        recordings.by_size.insert(size, Recording::Made { batch, graph, result });
                        Ok(self.tensor_at(result))
                    }
                    None => {
                        recordings.by_size.insert(size, Recording::Refused);
                        compute(&batch)
                    }
                }
            }
            Some(Recording::Made { mut batch, graph, result }) => {
                self.refill(&mut batch, padded)?;
                self.replay(&graph)?;
                recordings.by_size.insert(size, Recording::Made { batch, graph, result });
                Ok(self.tensor_at(result))
            }
            Some(Recording::Refused) => {
                recordings.by_size.insert(size, Recording::Refused);
                compute(&self.upload_batch(padded)?)
            }
        }
    }
}

#[cfg(test)]
impl Recordings {
    /// How many sizes were recorded, and how many could not be.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let made = self.by_size.values().filter(|recording| matches!(recording, Recording::Made { .. }));
        let refused = self.by_size.values().filter(|recording| matches!(recording, Recording::Refused));
        (made.count(), refused.count())
    }
}

impl Size {
    /// The size that a batch is filled up to; none if it is not recorded.
    fn of(batch: &Batch) -> Option<Self> {
        let sequences = batch.context_lengths.len();
        if sequences != batch.tokens.len() || !(1..=SEQUENCES_MAX).contains(&sequences) {
            return None;
        }
        let context = batch.context_lengths.iter().copied().max()? as usize;
        let blocks = batch.block_tables.iter().map(Vec::len).max()?;
        Some(Self {
            sequences: sequences.next_power_of_two(),
            context: context.next_power_of_two().max(CONTEXT_MIN),
            blocks: blocks.next_power_of_two(),
        })
    }

    fn fill(&self, mut batch: Batch) -> Batch {
        let missing = self.sequences - batch.tokens.len();
        let last = batch.tokens.len() as u32;
        let Batch { tokens, positions, slot_mapping, query_starts, context_lengths, block_tables } = &mut batch;
        for list in [tokens, positions, context_lengths] {
            list.resize(self.sequences, list[0]);
        }
        slot_mapping.resize(self.sequences, NO_SLOT);
        query_starts.extend((1..=missing as u32).map(|further| last + further));
        block_tables.resize(self.sequences, block_tables[0].clone());
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_filled_up_with_copies_that_write_nothing() {
        let batch = Batch {
            tokens: vec![7, 8, 9],
            positions: vec![4, 300, 2],
            slot_mapping: vec![4, 330, 2],
            query_starts: vec![0, 1, 2, 3],
            context_lengths: vec![5, 301, 3],
            block_tables: vec![vec![0], vec![1, 2, 3, 4, 5], vec![6]],
        };
        let size = Size::of(&batch).expect("each has one query");
        assert_eq!(size, Size { sequences: 4, context: 512, blocks: 8 });
        let filled = size.fill(batch.clone());
        let expected = Batch {
            tokens: vec![7, 8, 9, 7],
            positions: vec![4, 300, 2, 4],
            slot_mapping: vec![4, 330, 2, NO_SLOT],
            query_starts: vec![0, 1, 2, 3, 4],
            context_lengths: vec![5, 301, 3, 5],
            block_tables: vec![vec![0], vec![1, 2, 3, 4, 5], vec![6], vec![0]],
        };
        assert_eq!(filled, expected);
        let prefill = Batch { tokens: vec![1; 4], query_starts: vec![0, 1, 2, 4], ..batch };
        assert_eq!(Size::of(&prefill), None);
    }

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::repeat::check(&gpu);
            assert_eq!(gpu.recordings().counts(), (4, 0), "sizes recorded, and refused");
        }
    }
}

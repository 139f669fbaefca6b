//! A step's batch on a GPU.

use super::arena::{Arena, Buffer};
use super::driver::{Driver, Pointer};
use super::region::Region;
use crate::{Batch, CHOSEN, Result, choose::ASKS_MAX};

/// In a slot mapping: the token's key and value are not kept.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// A step's batch: its numbers in one run of 32-bit words.
pub struct DeviceBatch {
    /// The same on the host. Of steps that are recorded, only its sizes may decide what is enqueued.
    pub(crate) host: Batch,
    /// Entries of a sequence in the block tables.
    pub(crate) table_width: usize,
    /// Most queries of one sequence.
    pub(crate) queries_max: usize,
    /// No context is longer.
    pub(crate) context_max: usize,
    /// One more than the greatest slot that is written, and the greatest block that is read.
    pub(crate) slots_end: usize,
    pub(crate) blocks_end: usize,
    words: Words,
    starts: [usize; 6],
}

/// Where a batch's words are: for one step, or for as many as a recording is repeated.
enum Words {
    Step(Buffer),
    Lasting(Region),
}

/// A batch as words, laid out.
struct Layout {
    words: Vec<u8>,
    starts: [usize; 6],
}

impl Layout {
    fn of(batch: &Batch, table_width: usize) -> Self {
        let is_there = |token: &u32| token & CHOSEN == 0 || ((token ^ CHOSEN) as usize) < ASKS_MAX;
        assert!(batch.tokens.iter().all(is_there), "places of tokens that can have been chosen");
        let mut table = Vec::with_capacity(batch.block_tables.len() * table_width);
        for blocks in &batch.block_tables {
            table.extend_from_slice(blocks);
            table.resize(table.len() + table_width - blocks.len(), 0);
        }
        let Batch { tokens, positions, slot_mapping, query_starts, context_lengths, .. } = batch;
        let lists = [tokens, positions, slot_mapping, query_starts, context_lengths, &table];
        let mut layout = Self { words: Vec::new(), starts: [0; 6] };
        for (start, list) in layout.starts.iter_mut().zip(lists) {
            *start = layout.words.len();
            layout.words.extend(list.iter().flat_map(|word| word.to_le_bytes()));
        }
        layout
    }
}

impl DeviceBatch {
    /// For one step.
    pub(crate) fn new(driver: &Driver, arena: &Arena, batch: Batch) -> Result<Self> {
        let table_width = batch.block_tables.iter().map(Vec::len).max().unwrap_or(0);
        let layout = Layout::of(&batch, table_width);
        let words = arena.take(layout.words.len())?;
        // SAFETY: the run was taken for as many bytes.
        unsafe { driver.copy_in(words.pointer(), &layout.words) }?;
        let context_max = batch.context_lengths.iter().copied().max().unwrap_or(0) as usize;
        Ok(Self::with(batch, Words::Step(words), layout.starts, (table_width, context_max)))
    }

    /// For steps that are repeated: at addresses of its own, and with sizes that don't depend on the step.
    pub(crate) fn lasting(driver: &Driver, batch: Batch, table_width: usize, context_max: usize) -> Result<Self> {
        let Layout { words, starts } = Layout::of(&batch, table_width);
        let region = Region::with(driver, words.len(), "a recorded step's batch", [&words[..]])?;
        Ok(Self::with(batch, Words::Lasting(region), starts, (table_width, context_max)))
    }

    /// Puts another step's numbers in the place of those of one that was as large.
    pub(crate) fn refill(&mut self, driver: &Driver, batch: Batch) -> Result<()> {
        let Layout { words, starts } = Layout::of(&batch, self.table_width);
        let is_alike = starts == self.starts && batch.tokens.len() == self.host.tokens.len();
        assert!(is_alike, "a batch is refilled with one of its size");
        // SAFETY: the words were taken for as many numbers.
        unsafe { driver.copy_in(self.list(0), &words) }?;
        (self.slots_end, self.blocks_end) = ends(&batch);
        self.host = batch;
        Ok(())
    }

    fn with(host: Batch, words: Words, starts: [usize; 6], (table_width, context_max): (usize, usize)) -> Self {
        let queries = host.query_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        let queries_max = queries.max().unwrap_or(0);
        let (slots_end, blocks_end) = ends(&host);
        Self { host, table_width, queries_max, context_max, slots_end, blocks_end, words, starts }
    }

    fn list(&self, index: usize) -> Pointer {
        let words = match &self.words {
            Words::Step(buffer) => buffer.pointer(),
            Words::Lasting(region) => region.pointer(),
        };
        words.offset(self.starts[index])
    }

    /// `u32 [tokens]`
    pub(crate) fn token_ids(&self) -> Pointer {
        self.list(0)
    }

    /// `u32 [tokens]`
    pub(crate) fn positions(&self) -> Pointer {
        self.list(1)
    }

    /// `u32 [tokens]`
    pub(crate) fn slot_mapping(&self) -> Pointer {
        self.list(2)
    }

    /// `u32 [sequences + 1]`
    pub(crate) fn query_starts(&self) -> Pointer {
        self.list(3)
    }

    /// `u32 [sequences]`
    pub(crate) fn context_lengths(&self) -> Pointer {
        self.list(4)
    }

    /// `u32 [sequences, table_width]`
    pub(crate) fn block_tables(&self) -> Pointer {
        self.list(5)
    }

    pub(crate) fn tokens(&self) -> usize {
        self.host.tokens.len()
    }

    pub(crate) fn sequences(&self) -> usize {
        self.host.context_lengths.len()
    }
}

/// One more than the greatest slot that a batch writes, and the greatest block that it reads.
fn ends(batch: &Batch) -> (usize, usize) {
    let end = |last: Option<&u32>| last.map_or(0, |&last| last as usize + 1);
    let slots = batch.slot_mapping.iter().filter(|slot| **slot != NO_SLOT);
    (end(slots.max()), end(batch.block_tables.iter().flatten().max()))
}

//! How an attention is cut up: tiles and partitions of positions, tasks of queries.

use std::ops::Range;

use super::View;
use crate::{Heads, KvDType, KvShape};

/// Positions of a tile, about: their scores are few enough to stay in the first-level cache.
pub(super) const TILE: usize = 64;
/// The same where keys and values are 16-bit integers, so that scores take less time than what each tile takes besides.
pub(super) const TILE_OF_INTEGERS: usize = 128;
/// Positions of a partition, about.
const PARTITION: usize = 256;
/// Queries of a task, about: they share the reading of keys and values.
const QUERIES: usize = 32;
/// Where keys and values are 16-bit integers, so are scores and weights, and both take so little time that what a task and a
/// partition need besides is to be shared by more.
const PARTITION_OF_INTEGERS: usize = 512;
const QUERIES_OF_INTEGERS: usize = 64;

/// How positions are cut up.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// Blocks of a tile.
    pub(super) tile_blocks: usize,
    /// Positions of a tile.
    pub(super) tile: usize,
    /// Positions of a partition.
    pub(super) partition: usize,
    /// Queries of a task, about.
    queries: usize,
}

impl Steps {
    pub(super) fn of(shape: &KvShape) -> Self {
        let (tile, partition, queries) = match shape.dtype {
            KvDType::Int16 => (TILE_OF_INTEGERS, PARTITION_OF_INTEGERS, QUERIES_OF_INTEGERS),
            _ => (TILE, PARTITION, QUERIES),
        };
        let tile_blocks = (tile / shape.block_size).max(1);
        let tile = tile_blocks * shape.block_size;
        Self { tile_blocks, tile, partition: (partition / tile).max(1) * tile, queries }
    }
}

/// Queries that are computed together.
pub(super) struct Task {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// Query heads that read it.
    pub(super) heads: Range<usize>,
    /// Rows of the flat batch.
    pub(super) rows: Range<usize>,
    /// Partitions of the positions that some row of it sees.
    pub(super) partitions: Range<usize>,
    /// Positions that its last row sees.
    pub(super) positions: usize,
    /// Where its partitions' results begin among those of all tasks, if they are computed apart.
    pub(super) result: usize,
}

/// A tile within a partition.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Its first position.
    pub(super) start: usize,
    /// Its blocks.
    pub(super) blocks: &'a [u32],
    /// The first of the task's queries that sees some of it …
    pub(super) first_query: usize,
    /// … and the first after them that does not see it any more.
    pub(super) end_query: usize,
    /// Positions of it that some query of the task sees, counted from its start.
    pub(super) seen: usize,
}

impl<'a> View<'a> {
    /// The tiles of a partition that some query of the task sees, in order.
    #[inline(always)]
    pub(super) fn tiles(&self, task: &'a Task, partition: usize) -> impl Iterator<Item = Tile<'a>> + use<'a, '_> {
        let Steps { tile_blocks, tile, partition: length, .. } = self.steps;
        let end = self.seen(task.rows.end - 1).min((partition + 1) * length);
        let first = self.first_seen(task.rows.start) / tile * tile;
        let blocks = &self.batch.block_tables[task.sequence];
        (first.max(partition * length)..end).step_by(tile).map(move |start| {
            let first_block = start / tile * tile_blocks;
            let count = (end - start).div_ceil(self.cache.shape().block_size).min(tile_blocks);
            // Rows are in the order of their positions: the first may not see the tile yet, the last not any more.
            let unseeing = task.rows.clone().take_while(|&row| self.seen(row) <= start).count();
            let not_past = task.rows.clone().take_while(|&row| self.first_seen(row) < start + tile).count();
            Tile {
                start,
                blocks: &blocks[first_block..first_block + count],
                first_query: unseeing * task.heads.len(),
                end_query: not_past * task.heads.len(),
                seen: (end - start).min(tile),
            }
        })
    }

    /// All tasks; those at the ends of sequences, which see most, come first.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let (mut tasks, mut result) = (Vec::new(), 0);
        for (sequence, starts) in self.batch.query_starts.windows(2).enumerate() {
            let rows = starts[0] as usize..starts[1] as usize;
            for kv_head in 0..self.heads.kv {
                let heads = self.query_heads(kv_head);
                let grain = (self.steps.queries / heads.len().max(1)).max(1);
                for start in rows.clone().step_by(grain).rev() {
                    let rows = start..rows.end.min(start + grain);
                    let (first, end) = (self.first_seen(start), self.seen(rows.end - 1));
                    let partitions = first / self.steps.partition..end.div_ceil(self.steps.partition);
                    let count = partitions.len();
                    let positions = end - self.first_seen(rows.end - 1);
                    tasks.push(Task { sequence, kv_head, heads: heads.clone(), rows, partitions, positions, result });
                    result += count * self.result_length(tasks.last().expect("just pushed"));
                }
            }
        }
        tasks
    }

    fn query_heads(&self, kv_head: usize) -> Range<usize> {
        let Heads { query, group, first_in_group, .. } = *self.heads;
        let first = |kv_head: usize| (kv_head * group).saturating_sub(first_in_group).min(query);
        first(kv_head)..first(kv_head + 1)
    }

    /// The end of the positions that a row of the flat batch sees.
    #[inline]
    pub(super) fn seen(&self, row: usize) -> usize {
        self.batch.positions[row] as usize + 1
    }

    /// The first position that it sees.
    #[inline]
    pub(super) fn first_seen(&self, row: usize) -> usize {
        self.scoring.window.map_or(0, |window| self.seen(row).saturating_sub(window))
    }

    /// Floats of a task's [`Sums`].
    #[inline]
    pub(super) fn result_length(&self, task: &Task) -> usize {
        task.queries() * (self.cache.shape().padded_value_dim() + 2)
    }
}

impl Task {
    #[inline]
    pub(super) fn queries(&self) -> usize {
        self.rows.len() * self.heads.len()
    }

    /// Row and head of each, in order.
    #[inline]
    pub(super) fn rows_and_heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let heads = self.heads.clone();
        self.rows.clone().flat_map(move |row| heads.clone().map(move |head| (row, head)))
    }
}

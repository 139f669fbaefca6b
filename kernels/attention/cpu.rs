//! Attention on the CPU.
//!
//! A *task* is the queries of some neighbouring tokens and of the heads that share a KV head. It walks through its
//! positions in *tiles* (some whole blocks), with one softmax update per tile, and tile by tile through *partitions* (some
//! whole tiles), whose results are merged in order. Tiles and partitions begin at fixed positions, and everything is done
//! query by query in the same order, so a query's result has the same bits in any company. Where there are too few tasks
//! for the threads, partitions are computed apart and merged afterwards, by the same steps.

use std::{cell::RefCell, ops::Range};

use super::Attention;
use crate::{
    Batch, Heads, KvShape, Result,
    cpu::{
        Cpu, Elements, Floats, KvBF16, KvCache, KvF16, KvF32, KvFormat, Split, Tensor,
        simd::{Isa, Kernel, LANES, Simd, exp},
    },
};

/// Positions of a tile, about: their scores are few enough to stay in the first-level cache.
const TILE: usize = 64;
/// Positions of a partition, about.
const PARTITION: usize = 512;
/// Queries of a task, about: they share the reading of keys and values.
const QUERIES: usize = 32;
/// Queries that a micro-kernel computes side by side.
const SIDE: usize = 4;

impl Attention for Cpu {
    fn attention(
        &self,
        qkv: &Tensor,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        scale: f32,
        batch: &Batch,
    ) -> Result<Tensor> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a position per row");
        assert_eq!(
            (heads.kv, heads.dim),
            (cache.shape().kv_heads, cache.shape().head_dim),
            "the cache has these heads"
        );
        let mut output = self.scratch(qkv.rows(), heads.query * heads.dim);
        let view = View { qkv, cache, layer, heads, scale, batch, steps: Steps::of(cache.shape()) };
        match (&cache.keys, &cache.values) {
            (Elements::F32(keys), Elements::F32(values)) => self.attend::<KvF32>(&view, keys, values, &mut output),
            (Elements::F16(keys), Elements::F16(values)) => self.attend::<KvF16>(&view, keys, values, &mut output),
            (Elements::BF16(keys), Elements::BF16(values)) => self.attend::<KvBF16>(&view, keys, values, &mut output),
            _ => unreachable!("keys and values are made in one format"),
        }
        Ok(output)
    }
}

/// What an attention reads.
struct View<'a> {
    qkv: &'a Tensor,
    cache: &'a KvCache,
    layer: usize,
    heads: &'a Heads,
    scale: f32,
    batch: &'a Batch,
    steps: Steps,
}

/// How positions are cut up.
#[derive(Clone, Copy)]
struct Steps {
    /// Blocks of a tile.
    tile_blocks: usize,
    /// Positions of a tile.
    tile: usize,
    /// Positions of a partition.
    partition: usize,
}

impl Steps {
    fn of(shape: &KvShape) -> Self {
        let tile_blocks = (TILE / shape.block_size).max(1);
        let tile = tile_blocks * shape.block_size;
        Self { tile_blocks, tile, partition: (PARTITION / tile).max(1) * tile }
    }
}

/// Queries that are computed together.
struct Task {
    sequence: usize,
    kv_head: usize,
    /// Query heads that read it.
    heads: Range<usize>,
    /// Rows of the flat batch.
    rows: Range<usize>,
    /// Partitions of the positions that its last row sees.
    partitions: usize,
    /// Where its partitions' results begin among those of all tasks, if they are computed apart.
    result: usize,
}

impl View<'_> {
    /// All tasks; those at the ends of sequences, which see most, come first.
    fn tasks(&self) -> Vec<Task> {
        let (mut tasks, mut result) = (Vec::new(), 0);
        for (sequence, starts) in self.batch.query_starts.windows(2).enumerate() {
            let rows = starts[0] as usize..starts[1] as usize;
            for kv_head in 0..self.heads.kv {
                let heads = self.query_heads(kv_head);
                let grain = (QUERIES / heads.len().max(1)).max(1);
                for start in rows.clone().step_by(grain).rev() {
                    let rows = start..rows.end.min(start + grain);
                    let partitions = self.seen(rows.end - 1).div_ceil(self.steps.partition);
                    tasks.push(Task { sequence, kv_head, heads: heads.clone(), rows, partitions, result });
                    result += partitions * self.result_length(tasks.last().expect("just pushed"));
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

    /// Positions that a row of the flat batch sees.
    fn seen(&self, row: usize) -> usize {
        self.batch.positions[row] as usize + 1
    }

    /// Floats of a task's [`Sums`].
    fn result_length(&self, task: &Task) -> usize {
        task.queries() * (self.cache.shape().padded_dim() + 2)
    }
}

impl Task {
    fn queries(&self) -> usize {
        self.rows.len() * self.heads.len()
    }
}

thread_local! {
    /// Each thread's own room for a task: running sums, a partition's sums, queries and scores.
    static ROOM: RefCell<[Floats; 3]> = const { RefCell::new([Floats::new(), Floats::new(), Floats::new()]) };
}

impl Cpu {
    fn attend<F: KvFormat>(&self, view: &View, keys: &[F::Bits], values: &[F::Bits], output: &mut Tensor) {
        let (tasks, columns, isa) = (view.tasks(), output.columns(), self.isa);
        let output = Place { output: Split::new(output.data_mut()), columns };
        let parts: usize = tasks.iter().map(|task| task.partitions).sum();
        if tasks.len() < 4 * self.team.threads() && parts > tasks.len() && self.team.threads() > 1 {
            return self.attend_apart::<F>(view, &tasks, [keys, values], &output);
        }
        let nanoseconds = |task: &Task| (task.queries() * view.seen(task.rows.end - 1) * view.heads.dim) as f64 / 10.0;
        let mean = tasks.iter().map(nanoseconds).sum::<f64>() / tasks.len().max(1) as f64;
        self.team.share(tasks.len(), mean, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, sums, work]| {
                let length = view.result_length(task);
                running.resize(length);
                sums.resize(length);
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in 0..task.partitions {
                    let sums = Sums::new(sums, task.queries());
                    running.merge(&part::<F>(isa, view, task, partition, [keys, values], sums, work));
                }
                output.put(view, task, &running);
            });
        });
    }

    /// Few tasks and many partitions: every partition on its own, then the merging.
    fn attend_apart<F: KvFormat>(&self, view: &View, tasks: &[Task], stored: [&[F::Bits]; 2], output: &Place) {
        let isa = self.isa;
        let items: Vec<(&Task, usize)> =
            tasks.iter().flat_map(|task| (0..task.partitions).map(move |partition| (task, partition))).collect();
        let total = items.iter().map(|(task, _)| view.result_length(task)).sum();
        let mut results = self.scratch(1, total);
        let split = Split::new(results.data_mut());
        let place = |task: &Task, partition| {
            let length = view.result_length(task);
            let start = task.result + partition * length;
            // SAFETY: every partition of every task has its own range, and one thread at a time works on it.
            Sums::new(unsafe { split.part(start..start + length) }, task.queries())
        };
        self.team.run(items.len(), |item| {
            let (task, partition) = items[item];
            ROOM.with_borrow_mut(|[_, _, work]| {
                part::<F>(isa, view, task, partition, stored, place(task, partition), work);
            });
        });
        self.team.share(tasks.len(), 1000.0, |task| {
            let task = &tasks[task];
            ROOM.with_borrow_mut(|[running, ..]| {
                running.resize(view.result_length(task));
                let mut running = Sums::new(running, task.queries());
                running.reset();
                for partition in 0..task.partitions {
                    running.merge(&place(task, partition));
                }
                output.put(view, task, &running);
            });
        });
    }
}

/// Softmax-weighted sums of values in the making, one per query.
struct Sums<'a> {
    /// `[queries][padded dim]`: Σ exp(score − best) · value.
    values: &'a mut [f32],
    /// The best score so far.
    best: &'a mut [f32],
    /// Σ exp(score − best).
    total: &'a mut [f32],
}

impl<'a> Sums<'a> {
    fn new(floats: &'a mut [f32], queries: usize) -> Self {
        let (values, rest) = floats.split_at_mut(floats.len() - 2 * queries);
        let (best, total) = rest.split_at_mut(queries);
        Self { values, best, total }
    }

    fn reset(&mut self) {
        self.values.fill(0.0);
        self.best.fill(f32::NEG_INFINITY);
        self.total.fill(0.0);
    }

    /// Adds the sums over further positions. Queries that see none of those stay as they are.
    fn merge(&mut self, next: &Sums) {
        let dim = self.values.len() / self.best.len().max(1);
        for query in 0..self.best.len() {
            if next.best[query] == f32::NEG_INFINITY {
                continue;
            }
            let best = self.best[query].max(next.best[query]);
            let (keep, take) = ((self.best[query] - best).exp(), (next.best[query] - best).exp());
            self.best[query] = best;
            self.total[query] = self.total[query] * keep + next.total[query] * take;
            let own = &mut self.values[query * dim..][..dim];
            for (own, next) in own.iter_mut().zip(&next.values[query * dim..][..dim]) {
                *own = *own * keep + *next * take;
            }
        }
    }
}

/// Where results go.
struct Place<'a> {
    output: Split<'a, f32>,
    columns: usize,
}

impl Place<'_> {
    /// Divides a task's sums by their totals.
    fn put(&self, view: &View, task: &Task, sums: &Sums) {
        let (dim, padded) = (view.heads.dim, view.cache.shape().padded_dim());
        let queries = task.rows.clone().flat_map(|row| task.heads.clone().map(move |head| (row, head)));
        for (query, (row, head)) in queries.enumerate() {
            let start = row * self.columns + head * dim;
            // SAFETY: a (row, head) belongs to one task, and one thread finishes it.
            let output = unsafe { self.output.part(start..start + dim) };
            for (output, value) in output.iter_mut().zip(&sums.values[query * padded..]) {
                *output = value / sums.total[query];
            }
        }
    }
}

/// Computes the sums of a task's queries over one partition.
fn part<'a, F: KvFormat>(
    isa: Isa,
    view: &View,
    task: &Task,
    partition: usize,
    [keys, values]: [&[F::Bits]; 2],
    sums: Sums<'a>,
    work: &mut Floats,
) -> Sums<'a> {
    let (queries, dim, slots) = (task.queries(), view.heads.dim, view.cache.shape().padded_slots());
    let lanes = view.steps.tile_blocks * slots;
    work.resize(queries * (dim + lanes + 1));
    let (query_values, rest) = work.split_at_mut(queries * dim);
    let (scores, keeps) = rest.split_at_mut(queries * lanes);
    let rows = task.rows.clone().flat_map(|row| task.heads.clone().map(move |head| (row, head)));
    for ((row, head), to) in rows.zip(query_values.chunks_exact_mut(dim)) {
        for (to, value) in to.iter_mut().zip(&view.qkv.row(row)[head * dim..]) {
            *to = value * view.scale;
        }
    }
    isa.run(Part::<F> { view, task, partition, keys, values, queries: query_values, scores, keeps, lanes, sums })
}

/// The arithmetic of one partition.
struct Part<'a, 'b, F: KvFormat> {
    view: &'a View<'a>,
    task: &'a Task,
    partition: usize,
    keys: &'a [F::Bits],
    values: &'a [F::Bits],
    /// `[queries][dim]`, scaled.
    queries: &'a [f32],
    /// `[queries][lanes]`: a tile's scores, later their exponentials.
    scores: &'a mut [f32],
    /// By what each query's sums shrink when its best score grows.
    keeps: &'a mut [f32],
    lanes: usize,
    sums: Sums<'b>,
}

/// A tile within a partition.
#[derive(Clone, Copy)]
struct Tile<'a> {
    /// Its first position.
    start: usize,
    /// Its blocks.
    blocks: &'a [u32],
    /// The first of the task's queries that sees some of it.
    first_query: usize,
    /// Positions of it that some query of the task sees.
    seen: usize,
}

impl<'b, F: KvFormat> Kernel for Part<'_, 'b, F> {
    type Output = Sums<'b>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Sums<'b> {
        let (view, task) = (self.view, self.task);
        let Steps { tile_blocks, tile, partition } = view.steps;
        let end = view.seen(task.rows.end - 1).min((self.partition + 1) * partition);
        let blocks = &view.batch.block_tables[task.sequence];
        self.sums.reset();
        for start in (self.partition * partition..end).step_by(tile) {
            let first_block = start / tile * tile_blocks;
            let count = (end - start).div_ceil(view.cache.shape().block_size).min(tile_blocks);
            let unseeing = task.rows.clone().take_while(|&row| view.seen(row) <= start).count();
            let tile = Tile {
                start,
                blocks: &blocks[first_block..first_block + count],
                first_query: unseeing * task.heads.len(),
                seen: (end - start).min(tile),
            };
            self.score(simd, tile);
            self.soften(simd, tile);
            self.add(simd, tile);
        }
        self.sums
    }
}

impl<F: KvFormat> Part<'_, '_, F> {
    /// Scores of every query and slot of the tile, unseen ones included.
    #[inline(always)]
    fn score<S: Simd>(&mut self, simd: S, tile: Tile) {
        let shape = self.view.cache.shape();
        let (slots, elements, count) = (shape.padded_slots(), shape.key_tile(), self.task.queries());
        for (index, &block) in tile.blocks.iter().enumerate() {
            let start = self.view.cache.tile(self.view.layer, block as usize, self.task.kv_head) * elements;
            let keys = &self.keys[start..start + elements];
            for slot in (0..slots).step_by(2 * LANES) {
                let pair = slot + 2 * LANES <= slots;
                let mut query = tile.first_query;
                while query < count {
                    let place = Scores { query, at: index * slots + slot };
                    query += match (count - query, pair) {
                        (1, true) => self.score_some::<S, 1, 2>(simd, &keys[slot..], slots, place),
                        (1, false) => self.score_some::<S, 1, 1>(simd, &keys[slot..], slots, place),
                        (_, true) => self.score_some::<S, SIDE, 2>(simd, &keys[slot..], slots, place),
                        (_, false) => self.score_some::<S, SIDE, 1>(simd, &keys[slot..], slots, place),
                    };
                }
            }
        }
    }

    /// `R` queries (where there are fewer, the last one again) times `8 V` slots; answers `R`.
    #[inline(always)]
    fn score_some<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        keys: &[F::Bits],
        slots: usize,
        place: Scores,
    ) -> usize {
        let (dim, last) = (self.view.heads.dim, self.task.queries() - 1);
        let mut queries: [&[f32]; R] = [&[]; R];
        for (index, query) in queries.iter_mut().enumerate() {
            *query = &self.queries[(place.query + index).min(last) * dim..][..dim];
        }
        let mut chains = [[simd.splat(0.0); V]; R];
        for d in 0..dim {
            let (eights, _) = keys[d * slots..][..V * LANES].as_chunks::<LANES>();
            for (v, eight) in eights.iter().enumerate() {
                let key = F::load(simd, eight);
                for r in 0..R {
                    chains[r][v] = simd.fma(simd.splat(queries[r][d]), key, chains[r][v]);
                }
            }
        }
        for (r, chains) in chains.into_iter().enumerate() {
            let start = (place.query + r).min(last) * self.lanes + place.at;
            let (eights, _) = self.scores[start..][..V * LANES].as_chunks_mut::<LANES>();
            for (chain, eight) in chains.into_iter().zip(eights) {
                simd.store(chain, eight);
            }
        }
        R
    }

    /// Scores to exponentials, unseen ones to zeros; best scores and totals follow.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, tile: Tile) {
        let heads = self.task.heads.len();
        let shape = self.view.cache.shape();
        let (slots, block_size) = (shape.padded_slots(), shape.block_size);
        for query in tile.first_query..self.task.queries() {
            let seen = self.view.seen(self.task.rows.start + query / heads) - tile.start;
            let scores = &mut self.scores[query * self.lanes..][..tile.blocks.len() * slots];
            let (eights, _) = scores.as_chunks_mut::<LANES>();
            let mut best = simd.splat(f32::NEG_INFINITY);
            for (index, eight) in eights.iter_mut().enumerate() {
                let (block, slot) = (index * LANES / slots, index * LANES % slots);
                let valid = seen.saturating_sub(block * block_size).min(block_size).saturating_sub(slot);
                let score = simd.first(simd.load(eight), valid, simd.splat(f32::NEG_INFINITY));
                best = simd.max(best, score);
                simd.store(score, eight);
            }
            let old = self.sums.best[query];
            let new = old.max(simd.max_lane(best));
            let mut total = simd.splat(0.0);
            for eight in eights {
                let weight = exp(simd, simd.sub(simd.load(eight), simd.splat(new)));
                total = simd.add(total, weight);
                simd.store(weight, eight);
            }
            let keep = simd.max_lane(exp(simd, simd.splat(old - new)));
            self.keeps[query] = keep;
            self.sums.best[query] = new;
            self.sums.total[query] = self.sums.total[query] * keep + simd.sum(total);
        }
    }

    /// Adds the tile's values, weighted.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, tile: Tile) {
        let (padded, count) = (self.view.cache.shape().padded_dim(), self.task.queries());
        let mut query = tile.first_query;
        while query < count {
            for dim in (0..padded).step_by(2 * LANES) {
                match (count - query, dim + 2 * LANES <= padded) {
                    (1, true) => self.add_some::<S, 1, 2>(simd, tile, query, dim),
                    (1, false) => self.add_some::<S, 1, 1>(simd, tile, query, dim),
                    (_, true) => self.add_some::<S, SIDE, 2>(simd, tile, query, dim),
                    (_, false) => self.add_some::<S, SIDE, 1>(simd, tile, query, dim),
                }
            }
            query += if count - query == 1 { 1 } else { SIDE };
        }
    }

    /// `R` queries (where there are fewer, the last one again), `8 V` elements from `dim` on.
    #[inline(always)]
    fn add_some<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, tile: Tile, query: usize, dim: usize) {
        let shape = self.view.cache.shape();
        let (padded, slots, elements) = (shape.padded_dim(), shape.padded_slots(), shape.value_tile());
        let last = self.task.queries() - 1;
        let mut chains = [[simd.splat(0.0); V]; R];
        let mut weights: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            let query = (query + r).min(last);
            let (eights, _) = self.sums.values[query * padded + dim..][..V * LANES].as_chunks::<LANES>();
            for v in 0..V {
                chains[r][v] = simd.mul(simd.load(&eights[v]), simd.splat(self.keeps[query]));
            }
            weights[r] = &self.scores[query * self.lanes..][..self.lanes];
        }
        for (index, &block) in tile.blocks.iter().enumerate() {
            let start = self.view.cache.tile(self.view.layer, block as usize, self.task.kv_head) * elements;
            let rows = self.values[start..start + elements].chunks_exact(padded);
            let seen = (tile.seen - index * shape.block_size).min(shape.block_size);
            for (slot, values) in rows.enumerate().take(seen) {
                let (eights, _) = values[dim..][..V * LANES].as_chunks::<LANES>();
                for (v, eight) in eights.iter().enumerate() {
                    let value = F::load(simd, eight);
                    for r in 0..R {
                        chains[r][v] = simd.fma(simd.splat(weights[r][index * slots + slot]), value, chains[r][v]);
                    }
                }
            }
        }
        for (r, chains) in chains.into_iter().enumerate() {
            let start = (query + r).min(last) * padded + dim;
            let (eights, _) = self.sums.values[start..][..V * LANES].as_chunks_mut::<LANES>();
            for (chain, eight) in chains.into_iter().zip(eights) {
                simd.store(chain, eight);
            }
        }
    }
}

/// A place among a tile's scores.
#[derive(Clone, Copy)]
struct Scores {
    query: usize,
    at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KvDType,
        attention::{Case, compute},
        cpu::Instructions,
    };

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::attention::check(&cpu);
        }
    }

    /// Decoded alone, in chunks of any size, with other sequences, by one thread or many (which computes partitions
    /// apart): always the bits of one thread's single chunk.
    #[test]
    fn a_query_has_the_same_bits_in_any_company() {
        for instructions in [Instructions::Best, Instructions::Portable] {
            for (block_size, dtype) in [(16, KvDType::F32), (24, KvDType::F16), (3, KvDType::BF16)] {
                check_company(instructions, block_size, dtype);
            }
        }
    }

    fn check_company(instructions: Instructions, block_size: usize, dtype: KvDType) {
        const LENGTH: usize = 1111;
        let heads = Heads { query: 3, kv: 1, dim: 40, group: 3, first_in_group: 0 };
        let columns = heads.query * heads.dim;
        let case = |sequences: &[[usize; 2]]| Case { heads, block_size, dtype, sequences: sequences.to_vec() };
        let (one, many) = (Cpu::solo(1, instructions), Cpu::solo(4, instructions));
        let whole = compute(&one, &case(&[[0, LENGTH]]));
        for (device, start, count) in [
            (&many, 0, LENGTH),
            (&many, 0, 1),
            (&many, 511, 3),
            (&one, LENGTH - 1, 1),
            (&many, LENGTH - 1, 1),
            (&many, 530, 1),
            (&one, 1000, 111),
            (&many, 1003, 17),
            (&many, 64, 200),
        ] {
            let alone = compute(device, &case(&[[start, count]]));
            let together = compute(device, &case(&[[start, count], [7, 2], [0, 30]]));
            let expected = &whole[start * columns..(start + count) * columns];
            let equal = |result: &[f32]| result.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            let what = format!("{count} queries from {start}, {}, blocks of {block_size}", device.isa.name());
            assert!(equal(&alone[..count * columns]), "{what}, alone");
            assert!(equal(&together[..count * columns]), "{what}, together");
        }
    }
}

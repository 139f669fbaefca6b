//! The arithmetic: a task's queries over one partition, tile by tile. Scores, then their exponentials, then the values.

use std::{f32::consts::LOG2_E, ops::Range};

use super::{
    KEYS, QUERIES_ASKING, VALUES, View,
    lanes::{Eight, Lanes, Sixteen},
    sums::Sums,
    task::{TILE, Task, Tile},
};
use crate::cpu::{
    Floats, KvF32, KvFormat,
    simd::{Isa, Kernel, LANES, Simd, Wide, exp2},
};

/// Queries that a micro-kernel computes side by side, where there are many.
const MANY: usize = 6;
/// Where there are a few.
const FEW: usize = 4;

/// Whether so many vectors of sixteen lanes of `R` queries have room in registers, with the vectors that they are multiplied
/// with and one factor.
const fn fit<S: Simd, const R: usize>(vectors: usize) -> bool {
    (R + 1) * vectors * S::Wide::REGISTERS < S::REGISTERS
}

/// Calls what computes `V` vectors of `R` queries with as many as fit and are left, of sixteen lanes while so many are left.
/// What never fits is not compiled.
macro_rules! some_of {
    ($self:ident.$some:ident::<$simd:ident, $format:ident, $r:ident>($value:ident, $left:expr, $($argument:expr),+)) => {
        match $left / Sixteen::<$simd>::COUNT {
            0 => $self.$some::<_, $format, $r, 1>(Eight($value), $($argument),+),
            4.. if const { fit::<$simd, $r>(4) } => $self.$some::<_, $format, $r, 4>(Sixteen($value), $($argument),+),
            2.. if const { fit::<$simd, $r>(2) } => $self.$some::<_, $format, $r, 2>(Sixteen($value), $($argument),+),
            _ => $self.$some::<_, $format, $r, 1>(Sixteen($value), $($argument),+),
        }
    };
}

/// How many of so many queries that are left are computed next. What lacks of a full side is computed for nothing.
#[inline(always)]
fn side(left: usize) -> usize {
    match left {
        1 => 1,
        2..=FEW | 7 | 8 => FEW,
        _ => MANY,
    }
}

/// Computes the sums of a task's queries over one partition.
pub(super) fn part<'a, F: KvFormat>(
    isa: Isa,
    view: &View,
    task: &Task,
    partition: usize,
    [keys, values]: [&[F::Bits]; 2],
    sums: Sums<'a>,
    work: &mut Floats,
) -> Sums<'a> {
    let shape = view.cache.shape();
    let (queries, dim, stride) = (task.queries(), view.heads.dim, shape.padded_dim());
    let lanes = view.steps.tile_blocks * shape.padded_slots();
    let decodes = size_of::<F::Bits>() < size_of::<f32>() && queries > MANY && shape.values_from.is_none();
    let decoded = if decodes { view.steps.tile_blocks * shape.key_tile().max(shape.value_tile()) } else { 0 };
    work.resize(decoded + queries * (stride + lanes + 1));
    let (decoded, rest) = work.split_at_mut(decoded);
    let (query_values, rest) = rest.split_at_mut(queries * stride);
    let (scores, keeps) = rest.split_at_mut(queries * lanes);
    for ((row, head), to) in task.rows_and_heads().zip(query_values.chunks_exact_mut(stride)) {
        for (to, value) in to.iter_mut().zip(&view.qkv.row(row)[head * dim..][..dim]) {
            *to = value * view.scoring.scale * LOG2_E;
        }
        to[dim..].fill(0.0);
    }
    // Values within keys lie in the keys' rows.
    let values = if shape.values_from.is_none() { values } else { keys };
    let queries = query_values;
    isa.run(Part::<F> { view, task, partition, keys, values, decoded, queries, scores, keeps, lanes, sums })
}

/// The arithmetic of one partition.
struct Part<'a, 'b, F: KvFormat> {
    view: &'a View<'a>,
    task: &'a Task,
    partition: usize,
    keys: &'a [F::Bits],
    values: &'a [F::Bits],
    /// Room for a tile's keys, later its values, as f32; none where too few queries read them to be worth it.
    decoded: &'a mut [f32],
    /// `[queries][padded dim]`, scaled, for scores in powers of two.
    queries: &'a [f32],
    /// `[queries][lanes]`: a tile's scores, later their exponentials.
    scores: &'a mut [f32],
    /// By what each query's sums shrink when its best score grows.
    keeps: &'a mut [f32],
    lanes: usize,
    sums: Sums<'b>,
}

impl<'b, F: KvFormat> Kernel for Part<'_, 'b, F> {
    type Output = Sums<'b>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Sums<'b> {
        let (view, task) = (self.view, self.task);
        self.sums.reset();
        for tile in view.tiles(task, self.partition) {
            let mut starts = [0; TILE];
            for (start, &block) in starts.iter_mut().zip(tile.blocks) {
                *start = view.cache.tile(view.layer, block as usize, task.kv_head);
            }
            let starts = &starts[..tile.blocks.len()];
            let keys = Blocks::<F> { elements: self.keys, size: view.cache.shape().key_tile(), starts };
            if view.heads.values_from.is_some() {
                self.score_rows(simd, tile, keys);
                self.soften(simd, tile);
                self.add(simd, tile, keys);
                continue;
            }
            let values = Blocks::<F> { elements: self.values, size: view.cache.shape().value_tile(), starts };
            let decoded = std::mem::take(&mut self.decoded);
            if decoded.is_empty() {
                self.score(simd, tile, keys);
                self.soften(simd, tile);
                self.add(simd, tile, values);
            } else {
                self.score(simd, tile, keys.decode(simd, decoded));
                self.soften(simd, tile);
                self.add(simd, tile, values.decode(simd, decoded));
            }
            self.decoded = decoded;
        }
        self.sums
    }
}

impl<F: KvFormat> Part<'_, '_, F> {
    /// Scores of every query and slot of the tile, unseen ones included.
    #[inline(always)]
    fn score<S: Simd, G: KvFormat>(&mut self, simd: S, tile: Tile, keys: Blocks<G>) {
        let (slots, end) = (self.view.cache.shape().padded_slots(), tile.end_query);
        for index in 0..tile.blocks.len() {
            self.ask_ahead(simd, tile, index);
            let keys = keys.get(index);
            let mut query = tile.first_query;
            while query < end {
                let place = Scores { query, last: end - 1, at: index * slots };
                let side = side(end - query);
                match side {
                    1 => self.score_side::<S, G, 1>(simd, keys, place),
                    FEW => self.score_side::<S, G, FEW>(simd, keys, place),
                    _ => self.score_side::<S, G, MANY>(simd, keys, place),
                }
                query += side;
            }
        }
    }

    /// Those of `R` queries and a block.
    #[inline(always)]
    fn score_side<S: Simd, G: KvFormat, const R: usize>(&mut self, simd: S, keys: &[G::Bits], place: Scores) {
        let slots = self.view.cache.shape().padded_slots();
        let mut slot = 0;
        while slot < slots {
            let place = Scores { at: place.at + slot, ..place };
            slot += some_of!(self.score_some::<S, G, R>(simd, slots - slot, &keys[slot..], slots, place));
        }
    }

    /// Asks for the values of one of a tile's blocks, which are read when all scores are known, and for the keys of the block
    /// behind it. Blocks lie anywhere, so that the machine does not guess; where many queries share them, reading takes the
    /// smaller part of the time.
    #[inline(always)]
    fn ask_ahead<S: Simd>(&self, simd: S, tile: Tile, index: usize) {
        if tile.end_query - tile.first_query > QUERIES_ASKING {
            return;
        }
        let shape = self.view.cache.shape();
        self.ask(simd, self.values, tile.blocks[index], shape.value_tile());
        let next = tile.start / shape.block_size + index + 1;
        if next * shape.block_size < self.view.seen(self.task.rows.end - 1) {
            self.ask(simd, self.keys, self.view.batch.block_tables[self.task.sequence][next], shape.key_tile());
        }
    }

    #[inline(always)]
    fn ask<S: Simd>(&self, simd: S, elements: &[F::Bits], block: u32, count: usize) {
        let start = self.view.cache.tile(self.view.layer, block as usize, self.task.kv_head) * count;
        let elements = &elements[start..start + count];
        for line in (0..size_of_val(elements)).step_by(64) {
            simd.prefetch(elements.as_ptr().cast::<u8>().wrapping_add(line));
        }
    }

    /// The same where keys lie in rows: of every query and every slot that some query of the task sees.
    #[inline(always)]
    fn score_rows<S: Simd>(&mut self, simd: S, tile: Tile, keys: Blocks<F>) {
        let shape = self.view.cache.shape();
        let (stride, end) = (shape.padded_dim(), tile.end_query);
        for index in 0..tile.blocks.len() {
            let rows = keys.get(index).chunks_exact(stride);
            let seen = (tile.seen - index * shape.block_size).min(shape.block_size);
            for (slot, key) in rows.enumerate().take(seen) {
                let mut query = tile.first_query;
                while query < end {
                    let place = Scores { query, last: end - 1, at: index * shape.padded_slots() + slot };
                    query += match end - query {
                        1 => self.score_row::<S, 1>(simd, key, place),
                        _ => self.score_row::<S, FEW>(simd, key, place),
                    };
                }
            }
        }
    }

    /// `R` queries (where there are fewer, the last one again) times one key; answers `R`.
    #[inline(always)]
    fn score_row<S: Simd, const R: usize>(&mut self, simd: S, key: &[F::Bits], place: Scores) -> usize {
        let (keys, _) = key.as_chunks::<LANES>();
        let mut queries: [&[[f32; LANES]]; R] = [&[]; R];
        for (index, query) in queries.iter_mut().enumerate() {
            let row = &self.queries[(place.query + index).min(place.last) * key.len()..][..key.len()];
            *query = &row.as_chunks().0[..keys.len()];
        }
        let mut chains = [simd.splat(0.0); R];
        for (at, key) in keys.iter().enumerate() {
            let key = F::load(simd, key);
            for r in 0..R {
                chains[r] = simd.fma(simd.load(&queries[r][at]), key, chains[r]);
            }
        }
        for (r, chain) in chains.into_iter().enumerate() {
            self.scores[(place.query + r).min(place.last) * self.lanes + place.at] = simd.sum(chain);
        }
        R
    }

    /// `R` queries (where there are fewer, the last one again) times `V` vectors of slots; answers how many slots.
    #[inline(always)]
    fn score_some<L: Lanes, G: KvFormat, const R: usize, const V: usize>(
        &mut self,
        lanes: L,
        keys: &[G::Bits],
        slots: usize,
        place: Scores,
    ) -> usize {
        let (dim, stride) = (self.view.heads.dim, self.view.cache.shape().padded_dim());
        let mut queries: [&[f32]; R] = [&[]; R];
        for (index, query) in queries.iter_mut().enumerate() {
            *query = &self.queries[(place.query + index).min(place.last) * stride..][..dim];
        }
        let mut chains = [[lanes.splat(0.0); V]; R];
        for d in 0..dim {
            let vectors = keys[d * slots..][..V * L::COUNT].chunks_exact(L::COUNT);
            for (v, vector) in vectors.enumerate() {
                let key = lanes.decode::<G>(vector);
                for r in 0..R {
                    chains[r][v] = lanes.fma(lanes.splat(queries[r][d]), key, chains[r][v]);
                }
            }
        }
        for (r, chains) in chains.into_iter().enumerate() {
            let start = (place.query + r).min(place.last) * self.lanes + place.at;
            let vectors = self.scores[start..][..V * L::COUNT].chunks_exact_mut(L::COUNT);
            for (chain, vector) in chains.into_iter().zip(vectors) {
                lanes.store(chain, vector);
            }
        }
        V * L::COUNT
    }

    /// Scores to weights, unseen ones to zeros; best scores and totals follow.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, tile: Tile) {
        let heads = self.task.heads.len();
        let shape = self.view.cache.shape();
        let (slots, positions) = (shape.padded_slots(), tile.blocks.len() * shape.block_size);
        // Values within keys have the keys' scales.
        let values = if self.view.heads.values_from.is_none() { VALUES } else { KEYS };
        for query in tile.first_query..tile.end_query {
            let row = self.task.rows.start + query / heads;
            let seen = self.view.seen(row) - tile.start;
            let passed = self.view.first_seen(row).saturating_sub(tile.start);
            let sees_all = passed == 0 && seen >= positions && slots == shape.block_size;
            if F::GREATEST.is_some() || !sees_all {
                self.finish_scores(simd, tile, query, passed..seen);
            }
            let scores = &mut self.scores[query * self.lanes..][..tile.blocks.len() * slots];
            let (eights, _) = scores.as_chunks_mut::<LANES>();
            let mut best = simd.splat(f32::NEG_INFINITY);
            for eight in eights.iter() {
                best = simd.max(best, simd.load(eight));
            }
            let old = self.sums.best[query];
            let new = old.max(simd.max_lane(best));
            let mut total = simd.splat(0.0);
            for (index, eight) in eights.iter_mut().enumerate() {
                let mut weight = exp2(simd, simd.sub(simd.load(eight), simd.splat(new)));
                total = simd.add(total, weight);
                if F::GREATEST.is_some() {
                    let (block, slot) = (index * LANES / slots, index * LANES % slots);
                    let scales = self.view.scales(values, tile.blocks[block], self.task.kv_head, slot);
                    weight = simd.mul(weight, simd.load(scales));
                }
                simd.store(weight, eight);
            }
            let keep = simd.max_lane(exp2(simd, simd.splat(old - new)));
            self.keeps[query] = keep;
            self.sums.best[query] = new;
            self.sums.total[query] = self.sums.total[query] * keep + simd.sum(total);
        }
    }

    /// Multiplies a query's scores by the keys' scales, and makes those of positions that it does not see minus infinity.
    #[inline(always)]
    fn finish_scores<S: Simd>(&mut self, simd: S, tile: Tile, query: usize, sees: Range<usize>) {
        let shape = self.view.cache.shape();
        let (slots, block_size) = (shape.padded_slots(), shape.block_size);
        let scores = &mut self.scores[query * self.lanes..][..tile.blocks.len() * slots];
        let (eights, _) = scores.as_chunks_mut::<LANES>();
        for (index, eight) in eights.iter_mut().enumerate() {
            let (block, slot) = (index * LANES / slots, index * LANES % slots);
            let mut score = simd.load(eight);
            if F::GREATEST.is_some() {
                let scales = self.view.scales(KEYS, tile.blocks[block], self.task.kv_head, slot);
                score = simd.mul(score, simd.load(scales));
            }
            // Of the lanes' positions, those below `end` are seen, but for those below `start`.
            let below =
                |position: usize| position.saturating_sub(block * block_size).min(block_size).saturating_sub(slot);
            let (start, end) = (below(sees.start), below(sees.end));
            let score = simd.first(score, end, simd.splat(f32::NEG_INFINITY));
            simd.store(simd.first(simd.splat(f32::NEG_INFINITY), start, score), eight);
        }
    }

    /// Adds the tile's values, weighted.
    #[inline(always)]
    fn add<S: Simd, G: KvFormat>(&mut self, simd: S, tile: Tile, values: Blocks<G>) {
        let end = tile.end_query;
        let mut query = tile.first_query;
        while query < end {
            let side = side(end - query);
            match side {
                1 => self.add_side::<S, G, 1>(simd, tile, values, query),
                FEW => self.add_side::<S, G, FEW>(simd, tile, values, query),
                _ => self.add_side::<S, G, MANY>(simd, tile, values, query),
            }
            query += side;
        }
    }

    /// To the sums of `R` queries.
    #[inline(always)]
    fn add_side<S: Simd, G: KvFormat, const R: usize>(&mut self, simd: S, tile: Tile, values: Blocks<G>, query: usize) {
        let padded = self.view.cache.shape().padded_value_dim();
        let mut dim = 0;
        while dim < padded {
            dim += some_of!(self.add_some::<S, G, R>(simd, padded - dim, tile, values, query, dim));
        }
    }

    /// `R` queries (where there are fewer, the last one again), `V` vectors of elements from `dim` on; answers how many elements.
    #[inline(always)]
    fn add_some<L: Lanes, G: KvFormat, const R: usize, const V: usize>(
        &mut self,
        lanes: L,
        tile: Tile,
        values: Blocks<G>,
        query: usize,
        dim: usize,
    ) -> usize {
        let shape = self.view.cache.shape();
        let (padded, slots) = (shape.padded_value_dim(), shape.padded_slots());
        let from = shape.values_from.unwrap_or(0);
        let last = tile.end_query - 1;
        let mut chains = [[lanes.splat(0.0); V]; R];
        let mut weights: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            let query = (query + r).min(last);
            let sums = &self.sums.values[query * padded + dim..][..V * L::COUNT];
            for v in 0..V {
                chains[r][v] = lanes.mul(lanes.load(&sums[v * L::COUNT..]), lanes.splat(self.keeps[query]));
            }
            weights[r] = &self.scores[query * self.lanes..][..self.lanes];
        }
        for index in 0..tile.blocks.len() {
            let rows = values.get(index).chunks_exact(shape.padded_dim());
            let seen = (tile.seen - index * shape.block_size).min(shape.block_size);
            for (slot, values) in rows.enumerate().take(seen) {
                let vectors = values[from + dim..][..V * L::COUNT].chunks_exact(L::COUNT);
                for (v, vector) in vectors.enumerate() {
                    let value = lanes.decode::<G>(vector);
                    for r in 0..R {
                        chains[r][v] = lanes.fma(lanes.splat(weights[r][index * slots + slot]), value, chains[r][v]);
                    }
                }
            }
        }
        for (r, chains) in chains.into_iter().enumerate() {
            let start = (query + r).min(last) * padded + dim;
            let vectors = self.sums.values[start..][..V * L::COUNT].chunks_exact_mut(L::COUNT);
            for (chain, vector) in chains.into_iter().zip(vectors) {
                lanes.store(chain, vector);
            }
        }
        V * L::COUNT
    }
}

/// The keys, or the values, of a tile.
struct Blocks<'a, F: KvFormat> {
    elements: &'a [F::Bits],
    /// Elements of a block.
    size: usize,
    /// Where the blocks begin, in multiples of their size.
    starts: &'a [usize],
}

impl<F: KvFormat> Clone for Blocks<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: KvFormat> Copy for Blocks<'_, F> {}

impl<'a, F: KvFormat> Blocks<'a, F> {
    #[inline(always)]
    fn get(&self, index: usize) -> &'a [F::Bits] {
        &self.elements[self.starts[index] * self.size..][..self.size]
    }

    /// The same as f32, one after the other in `room`.
    #[inline(always)]
    fn decode<'b, S: Simd>(self, simd: S, room: &'b mut [f32]) -> Blocks<'b, KvF32> {
        for (index, to) in room.chunks_exact_mut(self.size).enumerate().take(self.starts.len()) {
            let (from, to) = (self.get(index).as_chunks::<LANES>().0, to.as_chunks_mut::<LANES>().0);
            for (from, to) in from.iter().zip(to) {
                simd.store(F::load(simd, from), to);
            }
        }
        Blocks { elements: room, size: self.size, starts: &IN_ORDER }
    }
}

/// Where blocks begin that lie one after the other.
static IN_ORDER: [usize; TILE] = {
    let mut starts = [0; TILE];
    let mut index = 0;
    while index < TILE {
        starts[index] = index;
        index += 1;
    }
    starts
};

/// A place among a tile's scores.
#[derive(Clone, Copy)]
struct Scores {
    query: usize,
    /// The last query that is scored.
    last: usize,
    at: usize,
}

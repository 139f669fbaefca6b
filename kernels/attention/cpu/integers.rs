//! The arithmetic over keys and values that are 16-bit integers, with a scale for each row: products are of integers, exact
//! in whatever order they are computed.
//!
//! Queries are rounded to such integers too, and so are the weights of a tile's positions. An integer is two bytes,
//! `256 · upper + lower`, so that a product of two would be four of bytes. The one of both lower bytes is left out: it is
//! worth as much as what was rounded off.
//!
//! ```text
//! Σ a · b ≈ 256 · (256 · Σ upper · upper + Σ (upper · lower + lower · upper))
//! ```
//!
//! Both sums stay below 2²⁴, so that they are exact as f32. What is made of them is made query by query and tile by tile,
//! in one order.

mod products;

use std::f32::consts::LOG2_E;

use self::products::{Multiplier, Products};
use super::{
    KEYS, QUERIES_ASKING, VALUES, View,
    sums::Sums,
    task::{TILE, Task, Tile},
};
use crate::cpu::{
    Floats, KEY_EXCESS, LARGEST_SHORT, Planes,
    simd::{Isa, Kernel, LANES, Simd, TILE_ROWS, Wide, exp2, padded},
};

/// Columns of sums that are computed side by side: what slots and elements are padded to.
const SIDE: usize = 16;
/// The largest weight of a tile as an integer: neither of its bytes has a sign.
const LARGEST_WEIGHT: f32 = 32767.0;
/// A query, or a tile's weights, that are all below this are zeros: the inverse of their step would not be finite.
const LEAST: f32 = 1e-30;

/// Computes the sums of a task's queries over one partition.
pub(super) fn part<'a>(
    isa: Isa,
    view: &View,
    task: &Task,
    partition: usize,
    [keys, values]: [&[u8]; 2],
    sums: Sums<'a>,
    work: &mut Floats,
) -> Sums<'a> {
    let planes = view.cache.shape().planes();
    let lanes = view.steps.tile_blocks * planes.slots;
    // Whole tiles of queries: those that are missing hold anything, and nobody asks what becomes of it.
    let queries = task.queries().next_multiple_of(TILE_ROWS);
    let lengths = [queries * planes.dim, queries * lanes, queries * lanes.max(planes.dim) * size_of::<i32>()];
    work.resize(2 * lengths.iter().sum::<usize>() / size_of::<f32>());
    let mut rest = work.bytes_mut();
    let [queries, weights, products] = lengths.map(|length| {
        [(); 2].map(|()| {
            let (plane, others) = std::mem::take(&mut rest).split_at_mut(length);
            rest = others;
            plane
        })
    });
    let mut facts = vec![Facts::default(); task.queries()];
    let (multiplier, facts) = (Multiplier::of(isa), &mut facts[..]);
    let part = Part {
        view,
        task,
        partition,
        planes,
        lanes,
        multiplier,
        keys,
        values,
        queries,
        weights,
        products,
        facts,
        sums,
    };
    isa.run(part)
}

/// What is known of a query.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// What one of a score's mixed products stands for, but for the key's scale.
    step: f32,
    /// What upper products, and mixed ones, have too much, since keys' bytes are too large.
    excess: [f32; 2],
    /// What one of a tile's mixed products of weights and values stands for.
    weight_step: f32,
    /// By what the sums of values shrink when the best score grows.
    keep: f32,
}

/// The arithmetic of one partition.
struct Part<'a, 'b> {
    view: &'a View<'a>,
    task: &'a Task,
    partition: usize,
    planes: Planes,
    /// Slots of a tile.
    lanes: usize,
    multiplier: Multiplier,
    keys: &'a [u8],
    values: &'a [u8],
    /// `[queries][dim]` in two planes.
    queries: [&'a mut [u8]; 2],
    /// A tile's weights, `[queries][lanes]` in two planes.
    weights: [&'a mut [u8]; 2],
    /// Sums of 32 bits of a tile's products: of upper bytes, and of mixed ones. `[queries][lanes]` where they become scores,
    /// `[queries][dim]` where they are weighted values.
    products: [&'a mut [u8]; 2],
    facts: &'a mut [Facts],
    sums: Sums<'b>,
}

impl<'b> Kernel for Part<'_, 'b> {
    type Output = Sums<'b>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Sums<'b> {
        let (view, task, planes, lanes) = (self.view, self.task, self.planes, self.lanes);
        self.sums.reset();
        self.round_queries(simd);
        for tile in view.tiles(task, self.partition) {
            let mut kept = [0; TILE];
            for (kept, &block) in kept.iter_mut().zip(tile.blocks) {
                *kept = view.cache.tile(view.layer, block as usize, task.kv_head);
            }
            let kept = &kept[..tile.blocks.len()];
            let rows = tile.first_query..tile.end_query;
            self.ask_ahead(simd, tile, kept);
            let [uppers, lowers] = &self.queries;
            let [sums, mixed] = &mut self.products;
            self.multiplier.multiply::<S, true>(
                simd,
                Products {
                    rows: rows.clone(),
                    factors: [uppers, lowers],
                    depth: planes.dim,
                    rows_kept: self.keys,
                    tiles: kept,
                    planes,
                    sums: [sums, mixed],
                    columns: lanes,
                },
            );
            self.soften(simd, tile, kept);
            let [uppers, lowers] = &self.weights;
            let [sums, mixed] = &mut self.products;
            self.multiplier.multiply::<S, false>(
                simd,
                Products {
                    rows,
                    factors: [uppers, lowers],
                    depth: lanes,
                    rows_kept: self.values,
                    tiles: kept,
                    planes,
                    sums: [sums, mixed],
                    columns: planes.dim,
                },
            );
            self.add(simd, tile);
        }
        self.sums
    }
}

impl Part<'_, '_> {
    /// The task's queries as integers.
    #[inline(always)]
    fn round_queries<S: Simd>(&mut self, simd: S) {
        let dim = self.view.heads.dim;
        let [uppers, lowers] = self.queries.each_mut().map(|plane| plane.chunks_exact_mut(self.planes.dim));
        for ((((row, head), uppers), lowers), facts) in
            self.task.rows_and_heads().zip(uppers).zip(lowers).zip(self.facts.iter_mut())
        {
            let query = &self.view.qkv.row(row)[head * dim..][..dim];
            let mut most = simd.splat(0.0);
            for at in (0..dim).step_by(LANES) {
                let value = simd.load(&padded(query, at));
                most = simd.max(simd.max(value, simd.sub(simd.splat(0.0), value)), most);
            }
            let most = simd.max_lane(most);
            let inverse = if most < LEAST { 0.0 } else { LARGEST_SHORT / most };
            let mut sums = [0; 2];
            let (uppers, lowers) = (uppers.as_chunks_mut::<SIDE>().0, lowers.as_chunks_mut::<SIDE>().0);
            for (index, planes) in uppers.iter_mut().zip(lowers).enumerate() {
                let eight = |at: usize| if at < dim { padded(query, at) } else { [0.0; LANES] };
                let at = index * SIDE;
                let scaled = [at, at + LANES].map(|at| simd.mul(simd.load(&eight(at)), simd.splat(inverse)));
                [*planes.0, *planes.1] = split(simd, scaled);
                for (sum, plane) in sums.iter_mut().zip([planes.0, planes.1]) {
                    *sum += plane.iter().map(|byte| i32::from(byte.cast_signed())).sum::<i32>();
                }
            }
            let excess = f32::from(KEY_EXCESS);
            facts.excess = [sums[0] as f32 * excess, (sums[0] + sums[1]) as f32 * excess];
            // Scores are in powers of two.
            facts.step = most / LARGEST_SHORT * self.view.scoring.scale * LOG2_E * 256.0;
        }
    }

    /// Asks for the tile's values, which are read when all scores are known, and for the keys of what is behind it. Blocks lie
    /// anywhere, so that the machine does not guess; where many queries share them, reading takes the smaller part.
    #[inline(always)]
    fn ask_ahead<S: Simd>(&self, simd: S, tile: Tile, kept: &[usize]) {
        if tile.end_query - tile.first_query > QUERIES_ASKING {
            return;
        }
        let bytes = 2 * self.planes.bytes();
        let ask = |rows: &[u8], tile: usize| {
            let rows = &rows[tile * bytes..][..bytes];
            for line in (0..bytes).step_by(64) {
                simd.prefetch(rows.as_ptr().wrapping_add(line));
            }
        };
        kept.iter().for_each(|&tile| ask(self.values, tile));
        let (view, block_size) = (self.view, self.view.cache.shape().block_size);
        let next = tile.start / block_size + tile.blocks.len();
        let seen = view.seen(self.task.rows.end - 1).div_ceil(block_size);
        let table = &view.batch.block_tables[self.task.sequence];
        for &block in &table[next.min(seen)..(next + view.steps.tile_blocks).min(seen)] {
            ask(self.keys, view.cache.tile(view.layer, block as usize, self.task.kv_head));
        }
    }

    /// Products to weights, those of unseen positions to zeros; best scores and totals follow.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, tile: Tile, kept: &[usize]) {
        const EIGHT: usize = LANES * size_of::<i32>();
        let (view, heads) = (self.view, self.task.heads.len());
        let (slots, block_size) = (self.planes.slots, view.cache.shape().block_size);
        let count = kept.len() * slots;
        let unseen = simd.splat(f32::NEG_INFINITY);
        let scales = |side: usize, tile: usize| -> &[[f32; LANES]] {
            view.cache.scales[side][tile * slots..][..slots].as_chunks().0
        };
        for query in tile.first_query..tile.end_query {
            let row = self.task.rows.start + query / heads;
            let (first, end) = (view.first_seen(row).saturating_sub(tile.start), view.seen(row) - tile.start);
            let sees_all = first == 0 && end >= kept.len() * block_size && slots == block_size;
            let facts = &mut self.facts[query];
            let start = query * self.lanes * size_of::<i32>();
            let [uppers, mixed] = self
                .products
                .each_mut()
                .map(|sums| sums[start..][..count * size_of::<i32>()].as_chunks_mut::<EIGHT>().0);
            let mut best = unseen;
            let blocks = uppers.chunks_exact(slots / LANES).zip(mixed.chunks_exact_mut(slots / LANES));
            for (block, ((uppers, mixed), &tile)) in blocks.zip(kept).enumerate() {
                let eights = uppers.iter().zip(mixed).zip(scales(KEYS, tile));
                for (index, ((upper, mixed), scales)) in eights.enumerate() {
                    let upper = simd.sub(simd.float(simd.words(upper)), simd.splat(facts.excess[0]));
                    let both = simd.sub(simd.float(simd.words(mixed)), simd.splat(facts.excess[1]));
                    let both = simd.fma(upper, simd.splat(256.0), both);
                    let mut score = simd.mul(simd.mul(both, simd.splat(facts.step)), simd.load(scales));
                    if !sees_all {
                        // Of the lanes' positions, those below `end` are seen, but for those below `first`.
                        let before = block * block_size;
                        let below = |position: usize| {
                            position.saturating_sub(before).min(block_size).saturating_sub(index * LANES)
                        };
                        score = simd.first(unseen, below(first), simd.first(score, below(end), unseen));
                    }
                    best = simd.max(best, score);
                    put(simd, score, mixed);
                }
            }
            let old = self.sums.best[query];
            let new = old.max(simd.max_lane(best));
            let (mut total, mut most) = (simd.splat(0.0), simd.splat(0.0));
            for (scores, &tile) in mixed.chunks_exact_mut(slots / LANES).zip(kept) {
                for (score, scales) in scores.iter_mut().zip(scales(VALUES, tile)) {
                    let weight = exp2(simd, simd.sub(simd.bits(simd.words(score)), simd.splat(new)));
                    total = simd.add(total, weight);
                    let weight = simd.mul(weight, simd.load(scales));
                    most = simd.max(weight, most);
                    put(simd, weight, score);
                }
            }
            let most = simd.max_lane(most);
            let inverse = simd.splat(if most < LEAST { 0.0 } else { LARGEST_WEIGHT / most });
            facts.weight_step = most / LARGEST_WEIGHT * 256.0;
            let [uppers, lowers] =
                self.weights.each_mut().map(|plane| plane[query * self.lanes..][..count].as_chunks_mut::<SIDE>().0);
            for ((weights, upper), lower) in mixed.as_chunks::<2>().0.iter().zip(uppers).zip(lowers) {
                // Less by 128, the lower byte is, too, but has a sign.
                let less = simd.splat(-128.0);
                let scaled = weights.each_ref().map(|weight| simd.fma(simd.bits(simd.words(weight)), inverse, less));
                [*upper, *lower] = split(simd, scaled);
                *lower = lower.map(|byte| byte ^ 128);
            }
            facts.keep = simd.max_lane(exp2(simd, simd.splat(old - new)));
            self.sums.best[query] = new;
            self.sums.total[query] = self.sums.total[query] * facts.keep + simd.sum(total);
        }
    }

    /// Adds the tile's values, weighted.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, tile: Tile) {
        let (wide, dim) = (simd.wide(), self.planes.dim);
        for query in tile.first_query..tile.end_query {
            let facts = self.facts[query];
            let (keep, step) = (wide.splat(facts.keep), wide.splat(facts.weight_step));
            let [uppers, mixed] = self
                .products
                .each_ref()
                .map(|sums| sums[query * dim * size_of::<i32>()..][..dim * size_of::<i32>()].as_chunks().0);
            let values = self.sums.values[query * dim..][..dim].as_chunks_mut().0;
            for ((value, upper), mixed) in values.iter_mut().zip(uppers).zip(mixed) {
                let both = wide.fma(wide.float(wide.words(upper)), wide.splat(256.0), wide.float(wide.words(mixed)));
                wide.store(wide.fma(both, step, wide.mul(wide.load(value), keep)), value);
            }
        }
    }
}

/// Sixteen values, rounded to 16-bit integers: upper bytes, and lower ones, all of which have a sign.
#[inline(always)]
fn split<S: Simd>(simd: S, [low, high]: [S::F; 2]) -> [[u8; SIDE]; 2] {
    let mut quads = [0; LANES];
    simd.store_int(simd.split_quads(simd.shorts(low, high)), &mut quads);
    let [uppers, lowers] = quads.as_chunks::<4>().0 else { unreachable!("two halves") };
    [uppers, lowers].map(|quads| {
        let mut bytes = [0; SIDE];
        bytes.copy_from_slice(quads.map(i32::to_le_bytes).as_flattened());
        bytes
    })
}

/// Puts eight values where their bytes belong.
#[inline(always)]
fn put<S: Simd>(simd: S, values: S::F, to: &mut [u8; LANES * size_of::<f32>()]) {
    let mut floats = [0.0; LANES];
    simd.store(values, &mut floats);
    to.copy_from_slice(floats.map(f32::to_ne_bytes).as_flattened());
}

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
//! What this comes to has 32 bits, and only then becomes f32. What is made of it is made query by query and tile by tile, in
//! one order.

mod products;

use std::f32::consts::LOG2_E;

use self::products::{Multiplier, Products};
use super::{
    KEYS, QUERIES_ASKING, VALUES, View,
    sums::Sums,
    task::{TILE_OF_INTEGERS, Task, Tile},
};
use crate::cpu::{
    Floats, KEY_EXCESS, LARGEST_HEAD, LARGEST_SHORT, Planes,
    shorts::{greatest_lane, greatest_size, in_planes},
    simd::{Isa, Kernel, Simd, TILE_ROWS, Wide},
};

/// Columns of sums that are computed side by side: what slots and elements are padded to.
const SIDE: usize = 16;
/// Bytes of so many sums.
const SIXTEEN: usize = SIDE * size_of::<i32>();
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
    let padded = task.queries().next_multiple_of(TILE_ROWS);
    let lengths = [padded * planes.dim, TILE_ROWS * lanes, TILE_ROWS * lanes.max(planes.dim) * size_of::<i32>()];
    work.resize(2 * lengths.iter().sum::<usize>() / size_of::<f32>());
    let mut rest = work.bytes_mut();
    let [queries, weights, products] = lengths.map(|length| {
        [(); 2].map(|()| {
            let (plane, others) = std::mem::take(&mut rest).split_at_mut(length);
            rest = others;
            plane
        })
    });
    let (mut facts, mut keeps) = (vec![Facts::default(); task.queries()], vec![0.0; padded]);
    let (multiplier, facts, keeps) = (Multiplier::of(isa), &mut facts[..], &mut keeps[..]);
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
        keeps,
        sums,
    };
    isa.run(part)
}

/// What is known of a query.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// What one of a score's mixed products stands for, but for the key's scale.
    step: f32,
    /// What products have too much, since keys' bytes are too large.
    excess: i32,
    /// What one of a tile's mixed products of weights and values stands for.
    weight_step: f32,
}

/// Queries that are computed together: as many as a tile of the machine has rows, so that their scores stay in the first-level
/// cache.
#[derive(Clone, Copy)]
struct Band {
    /// The query of its first row.
    first: usize,
    /// The first of its rows that sees some of a tile, and the first after them that does not.
    rows: [usize; 2],
}

impl Band {
    /// Those of a tile's queries, in order.
    #[inline(always)]
    fn all_of(tile: Tile) -> impl Iterator<Item = Self> {
        (tile.first_query / TILE_ROWS * TILE_ROWS..tile.end_query).step_by(TILE_ROWS).map(move |first| {
            let rows = [tile.first_query.max(first), tile.end_query.min(first + TILE_ROWS)];
            Self { first, rows: rows.map(|row| row - first) }
        })
    }

    /// The rows that see some of the tile, each with its query.
    #[inline(always)]
    fn rows(self) -> impl Iterator<Item = (usize, usize)> {
        (self.rows[0]..self.rows[1]).map(move |row| (row, self.first + row))
    }
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
    /// A tile's weights of a band, `[rows][lanes]` in two planes.
    weights: [&'a mut [u8]; 2],
    /// Sums of 32 bits of a tile's products with a band: of upper bytes, and of mixed ones. `[rows][lanes]` where they become
    /// scores, `[rows][dim]` where they are weighted values.
    products: [&'a mut [u8]; 2],
    facts: &'a mut [Facts],
    /// By what each query's sums shrink when its best score grows.
    keeps: &'a mut [f32],
    sums: Sums<'b>,
}

impl<'b> Kernel for Part<'_, 'b> {
    type Output = Sums<'b>;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Sums<'b> {
        let (view, task) = (self.view, self.task);
        self.sums.reset();
        self.round_queries(simd);
        for tile in view.tiles(task, self.partition) {
            let mut kept = [0; TILE_OF_INTEGERS];
            for (kept, &block) in kept.iter_mut().zip(tile.blocks) {
                *kept = view.cache.tile(view.layer, block as usize, task.kv_head);
            }
            let kept = &kept[..tile.blocks.len()];
            self.ask_ahead(simd, tile, kept);
            for band in Band::all_of(tile) {
                self.multiply_keys(simd, band, kept);
                self.score(simd, band, tile, kept);
                self.soften(simd, band, kept);
                self.multiply_values(simd, band, kept);
                self.add(simd, band);
            }
        }
        self.sums
    }
}

impl Part<'_, '_> {
    /// The task's queries as integers.
    #[inline(always)]
    fn round_queries<S: Simd>(&mut self, simd: S) {
        let (wide, dim) = (simd.wide(), self.view.heads.dim);
        let [uppers, lowers] = self.queries.each_mut().map(|plane| plane.chunks_exact_mut(self.planes.dim));
        let mut padded = [0.0; LARGEST_HEAD];
        for ((((row, head), uppers), lowers), facts) in
            self.task.rows_and_heads().zip(uppers).zip(lowers).zip(self.facts.iter_mut())
        {
            padded[..dim].copy_from_slice(&self.view.qkv.row(row)[head * dim..][..dim]);
            let query = &padded.as_chunks::<SIDE>().0[..self.planes.dim / SIDE];
            let most = greatest_size(simd, query.iter().copied());
            let inverse = if most < LEAST { 0.0 } else { LARGEST_SHORT / most };
            // Of the integers, and of 256 times their upper bytes: both have 24 bits.
            let mut sums = [wide.splat_int(0); 2];
            let (uppers, lowers) = (uppers.as_chunks_mut::<SIDE>().0, lowers.as_chunks_mut::<SIDE>().0);
            for ((values, uppers), lowers) in query.iter().zip(uppers).zip(lowers) {
                let [upper, numbers] = in_planes(wide, values, inverse);
                (*uppers, *lowers) = (wide.low_bytes(upper), wide.low_bytes(numbers));
                sums[0] = wide.add_int(sums[0], numbers);
                sums[1] = wide.add_int(sums[1], wide.shift_left::<8>(upper));
            }
            let [numbers, above] = [sum(simd, wide.float(sums[0])), sum(simd, wide.float(sums[1]))];
            // Of what is no number anything may come, but no fault.
            facts.excess = i32::from(KEY_EXCESS).wrapping_mul((numbers as i32).wrapping_add(above as i32 / 256));
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

    /// The band's products with a tile's keys.
    #[inline(always)]
    fn multiply_keys<S: Simd>(&mut self, simd: S, band: Band, kept: &[usize]) {
        let (dim, [sums, mixed]) = (self.planes.dim, &mut self.products);
        self.multiplier.multiply::<S, true>(
            simd,
            Products {
                rows: band.rows[0]..band.rows[1],
                factors: self.queries.each_ref().map(|plane| &plane[band.first * dim..]),
                depth: dim,
                rows_kept: self.keys,
                tiles: kept,
                planes: self.planes,
                sums: [sums, mixed],
                columns: self.lanes,
            },
        );
    }

    /// The products of its weights with a tile's values.
    #[inline(always)]
    fn multiply_values<S: Simd>(&mut self, simd: S, band: Band, kept: &[usize]) {
        let [sums, mixed] = &mut self.products;
        self.multiplier.multiply::<S, false>(
            simd,
            Products {
                rows: band.rows[0]..band.rows[1],
                factors: self.weights.each_ref().map(|plane| &**plane),
                depth: self.lanes,
                rows_kept: self.values,
                tiles: kept,
                planes: self.planes,
                sums: [sums, mixed],
                columns: self.planes.dim,
            },
        );
    }

    /// Products to scores, those of unseen positions to minus infinity; best scores follow.
    #[inline(always)]
    fn score<S: Simd>(&mut self, simd: S, band: Band, tile: Tile, kept: &[usize]) {
        let (view, wide, heads) = (self.view, simd.wide(), self.task.heads.len());
        let (slots, block_size) = (self.planes.slots, view.cache.shape().block_size);
        let (count, unseen) = (kept.len() * slots, wide.splat(f32::NEG_INFINITY));
        for (row, query) in band.rows() {
            let token = self.task.rows.start + query / heads;
            let (first, end) = (view.first_seen(token).saturating_sub(tile.start), view.seen(token) - tile.start);
            let sees_all = first == 0 && end >= kept.len() * block_size && slots == block_size;
            let facts = &mut self.facts[query];
            let (excess, step) = (wide.splat_int(facts.excess.wrapping_neg()), wide.splat(facts.step));
            let [uppers, mixed] = sixteens(&mut self.products, row * self.lanes, count);
            let mut best = unseen;
            for (block, &tile) in kept.iter().enumerate() {
                let own = block * slots / SIDE..(block + 1) * slots / SIDE;
                let (uppers, mixed, scales) = (&uppers[own.clone()], &mut mixed[own], scales(view, KEYS, tile, slots));
                for (index, ((upper, mixed), scales)) in uppers.iter().zip(mixed).zip(scales).enumerate() {
                    let upper = wide.shift_left::<8>(wide.words(upper));
                    let both = wide.add_int(wide.add_int(upper, wide.words(mixed)), excess);
                    let mut score = wide.mul(wide.mul(wide.float(both), step), wide.load(scales));
                    if !sees_all {
                        // Of the lanes' positions, those below `end` are seen, but for those below `first`.
                        let before = block * block_size;
                        let below = |position: usize| {
                            position.saturating_sub(before).min(block_size).saturating_sub(index * SIDE)
                        };
                        score = wide.first(unseen, below(first), wide.first(score, below(end), unseen));
                    }
                    best = wide.max(best, score);
                    put(wide, score, mixed);
                }
            }
            let old = self.sums.best[query];
            let new = old.max(greatest_lane(simd, best));
            self.sums.best[query] = new;
            self.keeps[query] = old - new;
        }
        // All of them: what lies beside the queries is nobody's.
        let keeps = self.keeps[band.first..].first_chunk_mut().expect("those of a band");
        wide.store(wide.exp2(wide.load(keeps)), keeps);
    }

    /// Scores to weights, in integers; totals follow.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, band: Band, kept: &[usize]) {
        let (wide, slots) = (simd.wide(), self.planes.slots);
        let count = kept.len() * slots;
        for (row, query) in band.rows() {
            let [_, scores] = sixteens(&mut self.products, row * self.lanes, count);
            let best = wide.splat(self.sums.best[query]);
            let (mut total, mut most) = (wide.splat(0.0), wide.splat(0.0));
            for (block, &tile) in kept.iter().enumerate() {
                let scores = &mut scores[block * slots / SIDE..(block + 1) * slots / SIDE];
                for (score, scales) in scores.iter_mut().zip(scales(self.view, VALUES, tile, slots)) {
                    let weight = wide.exp2(wide.sub(wide.bits(wide.words(score)), best));
                    total = wide.add(total, weight);
                    let weight = wide.mul(weight, wide.load(scales));
                    most = wide.max(weight, most);
                    put(wide, weight, score);
                }
            }
            let most = greatest_lane(simd, most);
            let inverse = wide.splat(if most < LEAST { 0.0 } else { LARGEST_WEIGHT / most });
            self.facts[query].weight_step = most / LARGEST_WEIGHT * 256.0;
            let (own, [uppers, lowers]) = (row * self.lanes..row * self.lanes + count, &mut self.weights);
            let (uppers, lowers) = (uppers[own.clone()].as_chunks_mut().0, lowers[own].as_chunks_mut().0);
            for ((weight, upper), lower) in scores.iter().zip(uppers).zip(lowers) {
                let weight = wide.round(wide.mul(wide.bits(wide.words(weight)), inverse));
                (*upper, *lower) = (wide.low_bytes(wide.shift_right::<8>(weight)), wide.low_bytes(weight));
            }
            self.sums.total[query] = self.sums.total[query] * self.keeps[query] + sum(simd, total);
        }
    }

    /// Adds the tile's values, weighted.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, band: Band) {
        let (wide, dim) = (simd.wide(), self.planes.dim);
        for (row, query) in band.rows() {
            let (keep, step) = (wide.splat(self.keeps[query]), wide.splat(self.facts[query].weight_step));
            let [uppers, mixed] = sixteens(&mut self.products, row * dim, dim);
            let values = self.sums.values[query * dim..][..dim].as_chunks_mut().0;
            for ((value, upper), mixed) in values.iter_mut().zip(uppers).zip(mixed) {
                let both = wide.add_int(wide.shift_left::<8>(wide.words(upper)), wide.words(mixed));
                wide.store(wide.fma(wide.float(both), step, wide.mul(wide.load(value), keep)), value);
            }
        }
    }
}

/// A row's sums of a tile's products, `count` from `first` on.
#[inline(always)]
fn sixteens<'a>([sums, mixed]: &'a mut [&mut [u8]; 2], first: usize, count: usize) -> [&'a mut [[u8; SIXTEEN]]; 2] {
    let (start, bytes) = (first * size_of::<i32>(), count * size_of::<i32>());
    [sums[start..][..bytes].as_chunks_mut().0, mixed[start..][..bytes].as_chunks_mut().0]
}

/// The scales of a block's keys, or values.
#[inline(always)]
fn scales<'a>(view: &View<'a>, side: usize, tile: usize, slots: usize) -> &'a [[f32; SIDE]] {
    view.cache.scales[side][tile * slots..][..slots].as_chunks().0
}

/// Their sum: of those eight apart, then as [`Simd::sum`].
#[inline(always)]
fn sum<S: Simd>(simd: S, values: <S::Wide as Wide>::F) -> f32 {
    let [lower, upper] = simd.wide().halves(values);
    simd.sum(simd.add(lower, upper))
}

/// Puts sixteen values where their bytes belong.
#[inline(always)]
fn put<W: Wide>(wide: W, values: W::F, to: &mut [u8; SIXTEEN]) {
    let mut floats = [0.0; SIDE];
    wide.store(values, &mut floats);
    to.copy_from_slice(floats.map(f32::to_ne_bytes).as_flattened());
}

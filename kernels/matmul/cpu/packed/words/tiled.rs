//! Several rows: sixteen outputs' words of a stretch are made once, as planes of bytes, and multiplied with sixteen rows at a
//! time.

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    Layout, PackedProduct, QUADS, SIDE, STEP, STRETCH, Stretch, VECTOR, WordRows,
    rows::{Lines, ROWS_AT_ONCE},
    stretches,
};
use crate::cpu::simd::{Avx2, Avx512, Kernel512, Shaped, TILE_ROWS, TileRow, Tiles, Wide, WordSums};

thread_local! {
    /// Each thread's own, kept from call to call.
    static ROOM: RefCell<Room> = const { RefCell::new(Room::NEW) };
}

struct Room {
    planes: [Planes; STRETCH / STEP],
    /// Of the tile that is being multiplied, and of the one before.
    sums: [WordSums; 2],
    chains: Vec<Chain>,
    /// Rows that do not lie together, and their scales.
    lines: Vec<TileRow>,
    scales: Vec<f32>,
}

/// Upper bytes of a step's words, and lower ones: a row has those of a quad.
type Planes = [[TileRow; TILE_ROWS]; 2];

/// A row's sums.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Chain([f32; SIDE]);

impl Room {
    const NEW: Self = Self {
        planes: [[[TileRow::ZERO; TILE_ROWS]; 2]; STRETCH / STEP],
        sums: [[[TileRow::ZERO; TILE_ROWS]; 3]; 2],
        chains: Vec::new(),
        lines: Vec::new(),
        scales: Vec::new(),
    };
}

/// Computes rows `rows` of a product.
pub(super) fn run<L: Layout>(
    product: &PackedProduct,
    x: &WordRows,
    rows: Range<usize>,
    (avx512, tiles): (Avx2<true>, Tiles),
) {
    ROOM.with_borrow_mut(|Room { planes, sums, chains, lines, scales }| {
        let layout = x.layout();
        let row_of = |row: usize| product.picked.at(row);
        let first = row_of(rows.start);
        let near = first.is_multiple_of(layout.rows) && rows.clone().all(|row| row_of(row) == first + row - rows.start);
        let x = if near {
            let (lines, scales) = (&x.lines()[layout.line(first)..], &x.scales()[layout.scale(first)..]);
            X { layout, lines, scales, bytes: x.bytes }
        } else {
            let own = Lines { groups: layout.groups, rows: rows.len().min(TILE_ROWS) };
            let room = rows.len().next_multiple_of(own.rows);
            lines.resize(own.line(room), TileRow::ZERO);
            scales.resize(own.scale(room), 0.0);
            for (index, row) in rows.clone().map(row_of).enumerate() {
                for line in 0..2 * layout.steps() {
                    lines[own.line(index) + line * own.rows] = x.lines()[layout.line(row) + line * layout.rows];
                }
                for stretch in 0..layout.stretches() {
                    scales[own.scale(index) + stretch * own.rows] =
                        x.scales()[layout.scale(row) + stretch * layout.rows];
                }
            }
            X { layout: own, lines, scales, bytes: x.bytes }
        };
        chains.resize(rows.len().next_multiple_of(TILE_ROWS), Chain([0.0; SIDE]));
        avx512.run_512(Tiled::<L> { product, rows, x, tiles, planes, sums, chains, layout: PhantomData });
    });
}

/// Rows that lie together, from the first of a tile on.
#[derive(Clone, Copy)]
struct X<'a> {
    layout: Lines,
    lines: &'a [TileRow],
    scales: &'a [f32],
    /// Whether words have 8 bits.
    bytes: bool,
}

struct Tiled<'a, L> {
    product: &'a PackedProduct<'a>,
    rows: Range<usize>,
    x: X<'a>,
    tiles: Tiles,
    planes: &'a mut [Planes; STRETCH / STEP],
    sums: &'a mut [WordSums; 2],
    chains: &'a mut [Chain],
    layout: PhantomData<L>,
}

/// Sums that are not yet in their chains.
#[derive(Clone, Copy)]
struct Behind<'a> {
    /// The first row of their tile.
    row: usize,
    /// Which sums they are.
    turn: usize,
    stretch: usize,
    scales: &'a [u8; VECTOR],
}

impl<L: Layout> Kernel512 for Tiled<'_, L> {
    #[inline(always)]
    fn run(mut self, avx512: Avx512) {
        assert!(self.rows.len() <= ROWS_AT_ONCE, "rows that stay near");
        let tiles = self.tiles.shaped(self.x.layout.rows, size_of::<TileRow>());
        for output in self.product.outputs.clone().step_by(SIDE) {
            if self.x.bytes {
                self.some::<true>(avx512, &tiles, output);
            } else {
                self.some::<false>(avx512, &tiles, output);
            }
        }
    }
}

impl<L: Layout> Tiled<'_, L> {
    /// Sixteen outputs. Where `BYTES`, words of activations are their lower bytes.
    #[inline(always)]
    fn some<const BYTES: bool>(&mut self, avx512: Avx512, tiles: &Shaped, output: usize) {
        let (PackedProduct { weight, outputs, place, .. }, X { layout, lines, .. }) = (self.product, self.x);
        self.chains.fill(Chain([0.0; SIDE]));
        let mut rest = weight.side(output);
        let (mut behind, mut turn) = (None, 0);
        for (index, groups) in stretches(layout.groups).enumerate() {
            let (stretch, next) = Stretch::of::<L>(rest, groups.len());
            let steps = groups.len().div_ceil(STEP);
            self.unpack(avx512, &stretch, groups.len(), 0);
            for row in (0..self.rows.len()).step_by(TILE_ROWS) {
                tiles.clear_words();
                for step in 0..steps {
                    // While some words are multiplied, the next ones are made.
                    if row == 0 && step + 1 < steps {
                        self.unpack(avx512, &stretch, groups.len(), step + 1);
                    }
                    let first = layout.line(row) + (groups.start / STEP + step) * 2 * layout.rows;
                    let planes = [&lines[first..], &lines[first + layout.rows..]];
                    tiles.add_words::<BYTES>(planes, &self.planes[step]);
                }
                tiles.store_words::<BYTES>(&mut self.sums[turn]);
                // While these are multiplied, those before them are turned to floats.
                if let Some(behind) = behind.replace(Behind { row, turn, stretch: index, scales: stretch.scales }) {
                    self.add::<BYTES>(avx512, behind);
                }
                turn ^= 1;
                if index == 0 {
                    let rows = row..self.rows.len().min(row + TILE_ROWS);
                    for row in self.rows.start + rows.start..self.rows.start + rows.end {
                        avx512.prefetch_near(place.address(row, output - outputs.start));
                    }
                }
            }
            rest = next;
        }
        if let Some(behind) = behind {
            self.add::<BYTES>(avx512, behind);
        }
        let (first, count) = (output - outputs.start, (outputs.end - output).min(SIDE));
        for (row, Chain(sums)) in self.rows.clone().zip(&*self.chains) {
            place.put(row, first, &sums[..count]);
        }
    }

    /// Makes the words of a step, of the stretch's first `groups`.
    #[inline(always)]
    fn unpack(&mut self, avx512: Avx512, stretch: &Stretch, groups: usize, step: usize) {
        let lower = avx512.splat_int(0x00ff_00ff);
        let upper = avx512.splat_int(0xff00_ff00_u32.cast_signed());
        let [uppers, lowers] = &mut self.planes[step];
        for group in step * STEP..groups.min((step + 1) * STEP) {
            stretch.ask_ahead::<L>(avx512, group);
            let words = stretch.words::<L>(avx512, group);
            for (quad, [even, odd]) in words.into_iter().enumerate() {
                let at = group % STEP * QUADS + quad;
                let of_upper = avx512.or(avx512.shift_pairs_right::<8>(even), avx512.and(odd, upper));
                let of_lower = avx512.or(avx512.and(even, lower), avx512.shift_pairs_left::<8>(odd));
                avx512.store_words(of_upper, &mut uppers[at].0);
                avx512.store_words(of_lower, &mut lowers[at].0);
            }
        }
    }

    /// Adds to each row's chain what a stretch gives.
    #[inline(always)]
    fn add<const BYTES: bool>(&mut self, avx512: Avx512, Behind { row, turn, stretch, scales }: Behind) {
        let of_weights = avx512.bits(avx512.words(scales));
        let of_rows = &self.x.scales[self.x.layout.scale(row) + stretch * self.x.layout.rows..];
        let [uppers, mixed, lowers] = &self.sums[turn];
        let count = (self.rows.len() - row).min(TILE_ROWS);
        for (m, (Chain(chain), scale)) in self.chains[row..row + count].iter_mut().zip(of_rows).enumerate() {
            let (mixed, lower) = (avx512.words(&mixed[m].0), avx512.words(&lowers[m].0));
            let sum = if BYTES {
                avx512.add_int(avx512.shift_left::<8>(mixed), lower)
            } else {
                let upper = avx512.shift_left::<8>(avx512.words(&uppers[m].0));
                avx512.add_int(avx512.add_int(upper, mixed), avx512.divide::<8>(lower))
            };
            let scale = avx512.mul(of_weights, avx512.splat(*scale));
            avx512.store(avx512.fma(avx512.float(sum), scale, avx512.load(chain)), chain);
        }
    }
}

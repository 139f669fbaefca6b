//! Several rows: sixteen outputs' words of a stretch are made once, as planes of bytes, and multiplied with sixteen rows at a
//! time.

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    Layout, PackedProduct, QUADS, SIDE, STEP, STRETCH, Stretch, VECTOR, WordRows,
    rows::{Lines, ROWS_AT_ONCE},
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
            let own = Lines { cut: layout.cut, rows: rows.len().min(TILE_ROWS) };
            let room = rows.len().next_multiple_of(own.rows);
            lines.resize(own.line(room), TileRow::ZERO);
            scales.resize(own.scale(room), 0.0);
            for (index, row) in rows.clone().map(row_of).enumerate() {
                for line in 0..2 * layout.steps() {
                    lines[own.line(index) + line * own.rows] = x.lines()[layout.line(row) + line * layout.rows];
                }
                for stretch in 0..layout.cut.count() {
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
    /// The first output and the rows of their tile.
    output: usize,
    rows: (usize, usize),
    /// Which sums they are.
    turn: usize,
    /// What words of weights are worth, and of rows.
    scales: (&'a [u8; VECTOR], &'a [f32]),
    /// Whether chains begin with them, and whether they end.
    is_first: bool,
    is_last: bool,
}

impl<L: Layout> Kernel512 for Tiled<'_, L> {
    #[inline(always)]
    fn run(self, avx512: Avx512) {
        assert!(self.rows.len() <= ROWS_AT_ONCE, "rows that stay near");
        if self.x.bytes { self.all::<true>(avx512) } else { self.all::<false>(avx512) }
    }
}

impl<'a, L: Layout> Tiled<'a, L> {
    /// All outputs. Where `BYTES`, words of activations are their lower bytes.
    #[inline(always)]
    fn all<const BYTES: bool>(mut self, avx512: Avx512) {
        let tiles = self.tiles.shaped(self.x.layout.rows, size_of::<TileRow>());
        let mut behind = None;
        for output in self.product.outputs.clone().step_by(SIDE) {
            self.some::<BYTES>(avx512, &tiles, output, &mut behind);
        }
        if let Some(behind) = behind {
            self.add::<BYTES>(avx512, behind, 0..TILE_ROWS);
        }
    }

    /// Sixteen outputs. The sums of each tile are turned to floats while the next one is multiplied, a few rows with each
    /// step: all at once they would keep its products waiting.
    #[inline(always)]
    fn some<const BYTES: bool>(
        &mut self,
        avx512: Avx512,
        tiles: &Shaped,
        output: usize,
        behind: &mut Option<Behind<'a>>,
    ) {
        let (weight, X { layout, lines, scales, .. }) = (self.product.weight, self.x);
        let mut rest = weight.side(output);
        for (index, groups) in layout.cut.stretches().enumerate() {
            let (stretch, next) = Stretch::of::<L>(rest, groups.len());
            let steps = groups.len().div_ceil(STEP);
            let rows_of_step = TILE_ROWS.div_ceil(steps);
            self.unpack(avx512, &stretch, groups.len(), 0);
            for row in (0..self.rows.len()).step_by(TILE_ROWS) {
                let lines = &lines[layout.line(row) + groups.start / STEP * 2 * layout.rows..];
                tiles.clear_words();
                for step in 0..steps {
                    // While some words are multiplied, the next ones are made.
                    if row == 0 && step + 1 < steps {
                        self.unpack(avx512, &stretch, groups.len(), step + 1);
                    }
                    let lines = &lines[step * 2 * layout.rows..];
                    tiles.add_words::<BYTES>([lines, &lines[layout.rows..]], &self.planes[step]);
                    if let Some(behind) = *behind {
                        self.add::<BYTES>(avx512, behind, step * rows_of_step..(step + 1) * rows_of_step);
                    }
                }
                let turn = behind.map_or(0, |behind| behind.turn ^ 1);
                tiles.store_words::<BYTES>(&mut self.sums[turn]);
                *behind = Some(Behind {
                    output,
                    rows: (row, (self.rows.len() - row).min(TILE_ROWS)),
                    turn,
                    scales: (stretch.scales, &scales[layout.scale(row) + index * layout.rows..]),
                    is_first: index == 0,
                    is_last: groups.end == layout.cut.groups,
                });
            }
            rest = next;
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

    /// Adds to the chains of some of a tile's rows what a stretch gives; where they end with it, they are the outputs.
    #[inline(always)]
    fn add<const BYTES: bool>(&mut self, avx512: Avx512, behind: Behind, of_tile: Range<usize>) {
        let Behind { output, rows: (first, count), turn, scales: (of_weights, of_rows), is_first, is_last } = behind;
        let PackedProduct { outputs, place, .. } = self.product;
        let of_weights = avx512.bits(avx512.words(of_weights));
        let [uppers, mixed, lowers] = &self.sums[turn];
        let of_side = (outputs.end - output).min(SIDE);
        for m in of_tile.start..of_tile.end.min(count) {
            let (mixed, lower) = (avx512.words(&mixed[m].0), avx512.words(&lowers[m].0));
            let sum = if BYTES {
                avx512.add_int(avx512.shift_left::<8>(mixed), lower)
            } else {
                let upper = avx512.shift_left::<8>(avx512.words(&uppers[m].0));
                avx512.add_int(avx512.add_int(upper, mixed), avx512.divide::<8>(lower))
            };
            let Chain(chain) = &mut self.chains[first + m];
            let before = if is_first { avx512.splat(0.0) } else { avx512.load(chain) };
            let scale = avx512.mul(of_weights, avx512.splat(of_rows[m]));
            let sums = avx512.fma(avx512.float(sum), scale, before);
            if is_last {
                let mut values = [0.0; SIDE];
                avx512.store(sums, &mut values);
                place.put_side(self.rows.start + first + m, output - outputs.start, &values, of_side);
            } else {
                avx512.store(sums, chain);
            }
        }
    }
}

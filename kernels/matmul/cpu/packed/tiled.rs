//! The arithmetic for many rows where the machine multiplies whole tiles of bytes (AMX).
//!
//! A tile of activations, sixteen rows of one group at most, is multiplied with sixteen outputs' weights of that group at
//! once: 16 cycles where vectors of 64 bytes take 64, or twice that for activations of 16 bits. Weights are unpacked to
//! signed bytes once for all rows. The sums being of integers they are those of [`Multiply`](super::multiply::Multiply), and
//! what is made of them is the same.

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    GROUP, Layout, PackedProduct, QUADS, SIDE,
    layout::MOST_PIECES,
    rounded::{Head, Quads},
};
use crate::cpu::simd::{Avx2, Kernel, Shaped, Simd, SumRow, TILE_ROWS, Tiles, Wide};

/// From so many rows on a tile is worth its loading and storing.
pub(super) const TILED_ROWS: usize = 12;
/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Rows whose sums are turned to floats together where they fill half a tile at most.
const HALF: usize = TILE_ROWS / 2;

thread_local! {
    /// Each thread's own, kept from call to call.
    static ROOM: RefCell<Room> = const { RefCell::new(Room::NEW) };
}

/// Sixteen outputs' weights, sums of two products, and rows of activations that do not lie together.
struct Room {
    weights: Vec<Group>,
    sums: [Sums; 2],
    quads: Vec<Quads>,
    heads: Vec<Head>,
}

/// A product's sums: of upper bytes, and of lower ones.
type Sums = [[SumRow; TILE_ROWS]; 2];

impl Room {
    const NEW: Self =
        Self { weights: Vec::new(), sums: [[[SumRow::ZERO; TILE_ROWS]; 2]; 2], quads: Vec::new(), heads: Vec::new() };
}

/// A group's weights of sixteen outputs: quads of signed bytes, scales and offsets of its pieces.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Group {
    quads: [[u8; 4 * SIDE]; QUADS],
    heads: [[[f32; SIDE]; 2]; MOST_PIECES],
}

/// Computes rows `rows` of a product.
pub(super) fn run<L: Layout>(product: &PackedProduct, rows: Range<usize>, (avx512, tiles): (Avx2<true>, Tiles)) {
    ROOM.with_borrow_mut(|Room { weights, sums, quads, heads }| {
        let PackedProduct { x, picked, .. } = product;
        let blocks = x.layout();
        let place = |row: usize| blocks.first(picked.at(row));
        let first = place(rows.start);
        let near = rows.clone().all(|row| place(row) == first + row - rows.start);
        let ((quads, heads), apart) = if near {
            (x.from(first), blocks.later(1))
        } else {
            let apart = rows.len().next_multiple_of(TILE_ROWS);
            let groups = blocks.groups;
            quads.resize(groups * apart, Quads::default());
            heads.resize(groups * apart, Head::default());
            for (index, row) in rows.clone().enumerate() {
                let (of_row, heads_of_row) = x.from(place(row));
                for group in 0..groups {
                    let (from, to) = (blocks.later(group), group * apart + index);
                    (quads[to], heads[to]) = (of_row[from], heads_of_row[from]);
                }
            }
            ((&quads[..], &heads[..]), apart)
        };
        weights.resize(blocks.groups, Group { quads: [[0; 4 * SIDE]; QUADS], heads: [[[0.0; SIDE]; 2]; MOST_PIECES] });
        avx512.run(Tiled::<L> { product, rows, tiles, weights, sums, quads, heads, apart, layout: PhantomData });
    });
}

struct Tiled<'a, L> {
    product: &'a PackedProduct<'a>,
    rows: Range<usize>,
    tiles: Tiles,
    weights: &'a mut [Group],
    sums: &'a mut [Sums; 2],
    /// Rows' groups, group after group; the same group of neighbouring rows lies side by side.
    quads: &'a [Quads],
    heads: &'a [Head],
    /// How far apart a row's groups lie.
    apart: usize,
    layout: PhantomData<L>,
}

/// What is done to each of the first `$count` rows of a tile, written out: the compiler leaves a loop of some formats as it is,
/// and chains in memory with it.
macro_rules! of_rows {
    ($count:ident, $row:ident, $done:block) => {
        of_rows!($count, $row, $done; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    };
    ($count:ident, $row:ident, $done:block; $($index:literal),+) => {
        $(if $index < $count {
            let $row = $index;
            $done
        })+
    };
}

impl<L: Layout> Kernel for Tiled<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.product.x.bytes { self.all::<S, true>(simd) } else { self.all::<S, false>(simd) }
    }
}

impl<L: Layout> Tiled<'_, L> {
    /// Where `BYTES`, the upper bytes of activations are known to be none.
    #[inline(always)]
    fn all<S: Simd, const BYTES: bool>(mut self, simd: S) {
        let count = self.rows.len();
        // Rows that a tile lacks are multiplied for nothing.
        let tiles = self.tiles.shaped(GROUP / L::PIECES);
        for output in self.product.outputs.clone().step_by(SIDE) {
            self.unpack(simd, output);
            for row in (0..count).step_by(TILE_ROWS) {
                if count - row > HALF {
                    self.some::<S, BYTES, TILE_ROWS>(simd, &tiles, output, row);
                } else {
                    self.some::<S, BYTES, HALF>(simd, &tiles, output, row);
                }
            }
        }
    }

    /// The weights of sixteen outputs.
    #[inline(always)]
    fn unpack<S: Simd>(&mut self, simd: S, output: usize) {
        let wide = simd.wide();
        let side = self.product.weight.side(output);
        assert!(side.len() == self.weights.len() / L::SPAN * L::BYTES, "weights of as many groups");
        for (span, groups) in side.chunks_exact(L::BYTES).zip(self.weights.chunks_exact_mut(L::SPAN)) {
            for (part, group) in groups.iter_mut().enumerate() {
                for (both, to) in group.quads.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    for (quads, to) in L::quads(wide, span, part, both).into_iter().zip(to) {
                        wide.store_words(quads, to);
                        for byte in to {
                            *byte = byte.wrapping_sub(L::EXCESS);
                        }
                    }
                }
                for piece in 0..L::PIECES {
                    let (scale, offset) = L::head(wide, span, part * L::PIECES + piece);
                    wide.store(scale, &mut group.heads[piece][0]);
                    wide.store(offset, &mut group.heads[piece][1]);
                }
            }
        }
    }

    /// Of `M` rows from `row` on the sums of sixteen outputs; there are fewer where the rows end.
    #[inline(always)]
    fn some<S: Simd, const BYTES: bool, const M: usize>(&mut self, simd: S, tiles: &Shaped, output: usize, row: usize) {
        let wide = simd.wide();
        let mut chains = [wide.splat(0.0); M];
        let pieces = self.weights.len() * L::PIECES;
        // While some outputs are computed the memory brings the weights of the next ones.
        let mut ahead = if row == 0 { self.product.weight.side(output).as_ptr_range().end } else { std::ptr::null() };
        self.begin::<0, BYTES>(tiles, row, 0);
        self.begin::<1, BYTES>(tiles, row, 1);
        self.end::<0, BYTES>(tiles);
        // One piece is turned to floats, the next one's sums are fetched, and the one behind is multiplied.
        for piece in (0..pieces).step_by(2) {
            self.begin::<0, BYTES>(tiles, row, piece + 2);
            self.end::<1, BYTES>(tiles);
            self.add::<S, BYTES, M, 0>(simd, row, piece, &mut chains);
            if row == 0 {
                for _ in 0..(2 * L::BYTES / L::SPAN / L::PIECES).div_ceil(LINE) {
                    simd.prefetch(ahead);
                    ahead = ahead.wrapping_add(LINE);
                }
            }
            if piece + 1 < pieces {
                self.begin::<1, BYTES>(tiles, row, piece + 3);
                self.end::<0, BYTES>(tiles);
                self.add::<S, BYTES, M, 1>(simd, row, piece + 1, &mut chains);
            }
        }
        let PackedProduct { outputs, place, .. } = self.product;
        let (first, count) = (output - outputs.start, (outputs.end - output).min(SIDE));
        for (row, sums) in self.rows.clone().skip(row).zip(chains) {
            let mut values = [0.0; SIDE];
            wide.store(sums, &mut values);
            place.put(row, first, &values[..count]);
        }
    }

    /// Begins the product of a piece, which may be behind the last one.
    #[inline(always)]
    fn begin<const TURN: usize, const BYTES: bool>(&self, tiles: &Shaped, row: usize, piece: usize) {
        let (group, part) = (piece / L::PIECES, piece % L::PIECES);
        if let Some(weights) = self.weights.get(group) {
            let at = row + group * self.apart;
            let places = [0, GROUP].map(|half| half + part * (GROUP / L::PIECES));
            let (x, w) = (&self.quads[at..], &weights.quads[part * QUADS / L::PIECES..]);
            if BYTES { tiles.begin::<TURN, false>(x, places, w) } else { tiles.begin::<TURN, true>(x, places, w) }
        }
    }

    /// Fetches the sums of a product.
    #[inline(always)]
    fn end<const TURN: usize, const BYTES: bool>(&mut self, tiles: &Shaped) {
        let sums = &mut self.sums[TURN];
        if BYTES { tiles.end::<TURN, false>(sums) } else { tiles.end::<TURN, true>(sums) }
    }

    /// Adds to each row's chain what a piece gives, whose sums were fetched.
    #[inline(always)]
    fn add<S: Simd, const BYTES: bool, const M: usize, const TURN: usize>(
        &self,
        simd: S,
        row: usize,
        piece: usize,
        chains: &mut [<S::Wide as Wide>::F; M],
    ) {
        let wide = simd.wide();
        let [uppers, lowers] = &self.sums[TURN];
        let (group, part) = (piece / L::PIECES, piece % L::PIECES);
        let [scale, offset] = &self.weights[group].heads[part];
        let of_weights = (wide.load(scale), wide.load(offset));
        let heads = &self.heads[row + group * self.apart..][..M];
        of_rows!(M, m, {
            let mut sum = wide.words(&lowers[m].0);
            if !BYTES {
                sum = wide.add_int(sum, wide.shift_left::<8>(wide.words(&uppers[m].0)));
            }
            chains[m] = L::add(wide, chains[m], sum, of_weights, &heads[m]);
        });
    }
}

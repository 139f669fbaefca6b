//! Products of planes: of queries with keys, of weights with values. By tiles where the machine has them and queries are
//! many, by lanes elsewhere; the sums are the same.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{PlaneRows, Shaped, TILE_ROWS, Tiles};
use crate::cpu::{
    Planes,
    simd::{Isa, Simd, Wide},
};

use super::SIDE;

/// Sums of products of 32 bits, `[rows][columns]`: of upper bytes, and of mixed ones.
pub(super) struct Products<'a> {
    /// The rows that are wanted.
    pub(super) rows: Range<usize>,
    /// `[rows][depth]` in two planes.
    pub(super) factors: [&'a [u8]; 2],
    pub(super) depth: usize,
    /// Keys, or values.
    pub(super) rows_kept: &'a [u8],
    /// Which of the cache's tiles the blocks are.
    pub(super) tiles: &'a [usize],
    /// How each block's lie.
    pub(super) planes: Planes,
    pub(super) sums: [&'a mut [u8]; 2],
    pub(super) columns: usize,
}

/// The planes of a block's keys, or values.
#[inline(always)]
fn kept(rows: &[u8], planes: Planes, tile: usize) -> [&[u8]; 2] {
    let bytes = planes.bytes();
    let (uppers, lowers) = rows[tile * 2 * bytes..][..2 * bytes].split_at(bytes);
    [uppers, lowers]
}

/// The same planes from a byte on.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn both_from([uppers, lowers]: [&[u8]; 2], at: usize) -> [&[u8]; 2] {
    [&uppers[at..], &lowers[at..]]
}

/// By what products are made.
pub(super) struct Multiplier {
    #[cfg(target_arch = "x86_64")]
    tiles: Option<Tiles>,
    /// The tiles' shape, and the bytes of a row that it is of.
    #[cfg(target_arch = "x86_64")]
    shaped: Option<(usize, Shaped)>,
}

impl Multiplier {
    /// That of an instruction set.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of(isa: Isa) -> Self {
        Self { tiles: isa.tiles(), shaped: None }
    }

    /// That of an instruction set.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn of(_: Isa) -> Self {
        Self {}
    }

    /// Where `KEYS`, rows of queries with all keys of a tile, unseen ones included; else rows of weights with all values.
    #[inline(always)]
    pub(super) fn multiply<S: Simd, const KEYS: bool>(&mut self, simd: S, mut products: Products) {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = self.tiles.filter(|_| products.rows.len() >= TILED_ROWS) {
            return match KEYS {
                true => products.keys_by_tiles(self.shape(tiles, step(products.planes.dim))),
                false => products.values_by_tiles(self.shape(tiles, step(products.planes.slots))),
            };
        }
        products.by_lanes::<S, KEYS>(simd);
    }

    /// Tiles of so many bytes in a row.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn shape(&mut self, tiles: Tiles, bytes: usize) -> &Shaped {
        if self.shaped.as_ref().is_none_or(|&(shape, _)| shape != bytes) {
            // The old shape ends before the new one begins.
            self.shaped = None;
            self.shaped = Some((bytes, tiles.shaped(TILE_ROWS, bytes)));
        }
        &self.shaped.as_ref().expect("just shaped").1
    }
}

/// From so many rows on tiles are used.
#[cfg(target_arch = "x86_64")]
const TILED_ROWS: usize = 5;

/// How much of a depth is multiplied at once by tiles: as much as a tile takes, or a part of that.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn step(depth: usize) -> usize {
    [64, 32].into_iter().find(|&step| depth.is_multiple_of(step)).unwrap_or(16)
}

#[cfg(target_arch = "x86_64")]
impl Products<'_> {
    #[inline(always)]
    fn keys_by_tiles(&mut self, tiles: &Shaped) {
        let (planes, depth) = (self.planes, self.depth);
        let step = step(depth);
        for row in self.rows_of_tiles() {
            for (block, &tile) in self.tiles.iter().enumerate() {
                let rows = |at| both_from(self.factors, row * depth + at);
                let bytes = kept(self.rows_kept, planes, tile);
                let begin = |slot: usize, turn: usize| {
                    turned(turn, || tiles.clear::<0>(), || tiles.clear::<1>());
                    for at in (0..depth).step_by(step) {
                        let a = PlaneRows { planes: rows(at), stride: depth };
                        let bytes = both_from(bytes, planes.key(at, slot));
                        let b = PlaneRows { planes: bytes, stride: 4 * planes.slots };
                        turned(turn, || tiles.add_planes::<0, true>(a, b), || tiles.add_planes::<1, true>(a, b));
                    }
                };
                store(
                    tiles,
                    planes.slots,
                    begin,
                    &mut self.sums,
                    [row * self.columns + block * planes.slots, self.columns],
                );
            }
        }
    }

    #[inline(always)]
    fn values_by_tiles(&mut self, tiles: &Shaped) {
        let (planes, depth) = (self.planes, self.depth);
        let step = step(planes.slots);
        for row in self.rows_of_tiles() {
            let begin = |dim: usize, turn: usize| {
                turned(turn, || tiles.clear::<0>(), || tiles.clear::<1>());
                for (block, &tile) in self.tiles.iter().enumerate() {
                    let bytes = kept(self.rows_kept, planes, tile);
                    for slot in (0..planes.slots).step_by(step) {
                        let at = row * depth + block * planes.slots + slot;
                        let a = PlaneRows { planes: both_from(self.factors, at), stride: depth };
                        let bytes = both_from(bytes, planes.value(slot, dim));
                        let b = PlaneRows { planes: bytes, stride: 4 * planes.dim };
                        turned(turn, || tiles.add_planes::<0, false>(a, b), || tiles.add_planes::<1, false>(a, b));
                    }
                }
            };
            store(tiles, planes.dim, begin, &mut self.sums, [row * self.columns, self.columns]);
        }
    }

    /// The first rows of the tiles in which the wanted ones are.
    fn rows_of_tiles(&self) -> impl Iterator<Item = usize> + use<> {
        (self.rows.start / TILE_ROWS * TILE_ROWS..self.rows.end).step_by(TILE_ROWS)
    }
}

/// One of two, by turns.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turned(turn: usize, first: impl FnOnce(), second: impl FnOnce()) {
    if turn == 0 { first() } else { second() }
}

/// Has the products of each sixteen of `count` columns begun, and stores their sums, from element `first` on, in rows of
/// `columns` elements: one product is begun before the sums of the one before are stored.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn store(
    tiles: &Shaped,
    count: usize,
    begin: impl Fn(usize, usize),
    sums: &mut [&mut [u8]; 2],
    [first, columns]: [usize; 2],
) {
    const ELEMENT: usize = size_of::<i32>();
    let mut put = |column: usize, turn: usize| {
        let (place, [sums, mixed]) = ((first + column) * ELEMENT, &mut *sums);
        let place = [&mut sums[place..], &mut mixed[place..]];
        let stride = columns * ELEMENT;
        if turn == 0 { tiles.store::<0>(place, stride) } else { tiles.store::<1>(place, stride) }
    };
    begin(0, 0);
    for column in (SIDE..count).step_by(SIDE) {
        let turn = column / SIDE % 2;
        begin(column, turn);
        put(column - SIDE, 1 - turn);
    }
    put(count - SIDE, (count / SIDE - 1) % 2);
}

impl Products<'_> {
    /// In lanes: as many columns as a vector has. Where `KEYS`, kept bytes have no sign, and factors have one; else it is the
    /// other way round.
    #[inline(always)]
    fn by_lanes<S: Simd, const KEYS: bool>(&mut self, simd: S) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            row += match self.rows.end - row {
                1 => self.some::<S, KEYS, 1>(simd, row),
                2 => self.some::<S, KEYS, 2>(simd, row),
                3 => self.some::<S, KEYS, 3>(simd, row),
                _ => self.some::<S, KEYS, 4>(simd, row),
            };
        }
    }

    /// `R` rows from `row` on; answers `R`.
    #[inline(always)]
    fn some<S: Simd, const KEYS: bool, const R: usize>(&mut self, simd: S, row: usize) -> usize {
        let (planes, count) = (self.planes, self.tiles.len());
        if KEYS {
            for block in 0..count {
                for slot in (0..planes.slots).step_by(SIDE) {
                    let column = block * planes.slots + slot;
                    self.columns::<S, KEYS, R>(simd, row, column, block..block + 1, planes.key(0, slot));
                }
            }
        } else {
            for dim in (0..planes.dim).step_by(SIDE) {
                self.columns::<S, KEYS, R>(simd, row, dim, 0..count, planes.value(0, dim));
            }
        }
        R
    }

    /// Sixteen columns from `column` on, over these blocks; their bytes begin at `at` in a block's plane.
    #[inline(always)]
    fn columns<S: Simd, const KEYS: bool, const R: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        blocks: Range<usize>,
        at: usize,
    ) {
        let (wide, planes) = (simd.wide(), self.planes);
        // Of a block: fours of what is summed, and how far apart their vectors lie.
        let (count, stride) =
            if KEYS { (planes.dim / 4, 4 * planes.slots) } else { (planes.slots / 4, 4 * planes.dim) };
        let mut sums = [[wide.splat_int(0); 2]; R];
        for block in blocks {
            let begin = if KEYS { 0 } else { block * planes.slots };
            let mut factors: [[&[[u8; 4]]; 2]; R] = [[&[]; 2]; R];
            for (r, factors) in factors.iter_mut().enumerate() {
                let first = (row + r) * self.depth + begin;
                *factors = self.factors.map(|plane| &plane[first..][..4 * count].as_chunks().0[..count]);
            }
            let [uppers, lowers] =
                kept(self.rows_kept, planes, self.tiles[block]).map(|plane| plane.chunks_exact(stride));
            for (quad, (upper, lower)) in uppers.zip(lowers).enumerate() {
                let vector = |bytes: &[u8]| wide.words(bytes[at..][..4 * SIDE].try_into().expect("a vector"));
                let (upper, lower) = (vector(upper), vector(lower));
                for r in 0..R {
                    let [first, second] = factors[r].map(|plane| wide.splat_int(i32::from_le_bytes(plane[quad])));
                    let [sum, mixed] = &mut sums[r];
                    if KEYS {
                        *sum = wide.dot_quads(*sum, upper, first);
                        *mixed = wide.dot_quads(wide.dot_quads(*mixed, lower, first), upper, second);
                    } else {
                        *sum = wide.dot_quads(*sum, first, upper);
                        *mixed = wide.dot_quads(wide.dot_quads(*mixed, first, lower), second, upper);
                    }
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let first = ((row + r) * self.columns + column) * size_of::<i32>();
            for (sum, to) in sums.into_iter().zip(&mut self.sums) {
                wide.store_words(sum, to[first..].first_chunk_mut().expect("sixteen sums"));
            }
        }
    }
}

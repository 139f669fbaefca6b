//! The arithmetic for many rows: a group's weights stay in registers while all rows pass.
//!
//! What is done for weights alone – unpacked, scales decoded – is done once for all rows then, and an activation that is
//! loaded is multiplied with thirty-two outputs. Sums wait in the first-level cache for the next group. Their terms are those
//! of [`Multiply`](super::multiply::Multiply), in the same order.

use std::{marker::PhantomData, ops::Range};

use super::{
    Layout, PackedProduct, QUADS, ROWS_AT_ONCE, SIDE,
    layout::{MOST_PIECES, ask_ahead},
    rounded::{GroupRows, Head, Quads},
};
use crate::cpu::simd::{Simd, Wide};

/// Sixteens of outputs that are multiplied together.
pub(super) const SIDES: usize = 2;

/// Whether registers hold a group's weights, and what is needed beside them.
pub(super) const fn fits<S: Simd>() -> bool {
    S::DOTS_QUADS && S::Wide::REGISTERS == 1 && S::REGISTERS == 32
}

/// Rows `rows` of a product, at most [`ROWS_AT_ONCE`].
pub(super) struct Many<'a, L> {
    product: &'a PackedProduct<'a>,
    x: &'a GroupRows,
    rows: Range<usize>,
    layout: PhantomData<L>,
}

/// The sums of a row.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Sums([[f32; SIDE]; SIDES]);

/// Weights of a group: quads of its inputs, scales and offsets of its pieces.
struct Group<W: Wide, const N: usize> {
    quads: [[W::I; QUADS]; N],
    heads: [[(W::F, W::F); MOST_PIECES]; N],
}

impl<'a, L: Layout> Many<'a, L> {
    pub(super) fn of(product: &'a PackedProduct<'a>, x: &'a GroupRows, rows: Range<usize>) -> Self {
        assert!(rows.len() <= ROWS_AT_ONCE, "rows whose sums have a place");
        Self { product, x, rows, layout: PhantomData }
    }

    /// All outputs, of `M` rows side by side: as many as registers have sums for, so that products wait for each other less.
    /// Where `BYTES`, the upper bytes of activations are known to be none.
    #[inline(always)]
    pub(super) fn all<S: Simd, const BYTES: bool, const M: usize>(&self, simd: S) {
        let (PackedProduct { picked, outputs, .. }, x) = (self.product, self.x);
        let mut first = [0; ROWS_AT_ONCE];
        for (first, row) in first.iter_mut().zip(self.rows.clone()) {
            *first = x.layout().first(picked.at(row));
        }
        let first = &first[..self.rows.len()];
        let sums = &mut [Sums::default(); ROWS_AT_ONCE][..self.rows.len()];
        for output in outputs.clone().step_by(SIDES * SIDE) {
            if outputs.end - output > SIDE {
                self.some::<S, BYTES, M, SIDES>(simd, output, first, sums);
            } else {
                self.some::<S, BYTES, M, 1>(simd, output, first, sums);
            }
        }
    }

    /// `N` sides of outputs from `output` on; the groups of a row begin at `first`.
    #[inline(always)]
    fn some<S: Simd, const BYTES: bool, const M: usize, const N: usize>(
        &self,
        simd: S,
        output: usize,
        first: &[usize],
        sums: &mut [Sums],
    ) {
        let (PackedProduct { weight, outputs, place, .. }, x) = (self.product, self.x);
        let blocks = x.layout();
        let sides: [&[u8]; N] = std::array::from_fn(|side| weight.side(output + side * SIDE));
        assert!(sides[0].len() == blocks.groups / L::SPAN * L::BYTES, "weights of as many groups");
        sums.fill(Sums::default());
        for group in 0..blocks.groups {
            let (span, part) = (group / L::SPAN * L::BYTES, group % L::SPAN);
            let spans = sides.map(|side| &side[span..span + L::BYTES]);
            spans.iter().for_each(|span| ask_ahead::<S, L>(simd, span, part));
            let weights = Group::of::<L>(simd.wide(), spans, part);
            let (quads, heads) = x.from(blocks.later(group));
            let of_row = |first: usize| (&quads[first], &heads[first]);
            let (firsts, lasts) = first.as_chunks::<M>();
            let (sums, last_sums) = sums.as_chunks_mut::<M>();
            for (sums, first) in sums.iter_mut().zip(firsts) {
                weights.add::<L, BYTES, M>(simd.wide(), first.map(of_row), sums);
            }
            for (sums, first) in last_sums.as_chunks_mut::<1>().0.iter_mut().zip(lasts.as_chunks::<1>().0) {
                weights.add::<L, BYTES, 1>(simd.wide(), first.map(of_row), sums);
            }
        }
        let at = output - outputs.start;
        for (row, Sums(sums)) in self.rows.clone().zip(sums.iter()) {
            place.put(row, at, &sums.as_flattened()[..(outputs.end - output).min(N * SIDE)]);
        }
    }
}

#[expect(clippy::needless_range_loop, reason = "of arrays lent to iterators the compiler keeps nothing in registers")]
impl<W: Wide, const N: usize> Group<W, N> {
    /// Those of group `part` of a span of each side.
    #[inline(always)]
    fn of<L: Layout>(wide: W, spans: [&[u8]; N], part: usize) -> Self {
        let mut quads = [[wide.splat_int(0); QUADS]; N];
        let mut heads = [[(wide.splat(0.0), wide.splat(0.0)); MOST_PIECES]; N];
        for side in 0..N {
            for both in 0..QUADS / 2 {
                [quads[side][2 * both], quads[side][2 * both + 1]] = L::quads(wide, spans[side], part, both);
            }
            for piece in 0..L::PIECES {
                heads[side][piece] = L::head(wide, spans[side], part * L::PIECES + piece);
            }
        }
        Self { quads, heads }
    }

    /// Adds what a group of `M` rows gives.
    #[inline(always)]
    fn add<L: Layout, const BYTES: bool, const M: usize>(
        &self,
        wide: W,
        x: [(&Quads, &Head); M],
        sums: &mut [Sums; M],
    ) {
        for piece in 0..L::PIECES {
            let mut lowers = [[wide.splat_int(0); N]; M];
            let mut uppers = lowers;
            for m in 0..M {
                lowers[m] = [wide.splat_int(L::start(x[m].1, piece)); N];
            }
            for quad in piece * QUADS / L::PIECES..(piece + 1) * QUADS / L::PIECES {
                for m in 0..M {
                    let [first, second] = &x[m].0.0;
                    if !BYTES {
                        let upper = wide.splat_int(first[quad]);
                        for side in 0..N {
                            uppers[m][side] = wide.dot_quads(uppers[m][side], self.quads[side][quad], upper);
                        }
                    }
                    let lower = wide.splat_int(second[quad]);
                    for side in 0..N {
                        lowers[m][side] = wide.dot_quads(lowers[m][side], self.quads[side][quad], lower);
                    }
                }
            }
            for m in 0..M {
                let head = x[m].1;
                for side in 0..N {
                    let mut sum = lowers[m][side];
                    if !BYTES {
                        sum = wide.add_int(sum, wide.shift_left::<8>(uppers[m][side]));
                    }
                    let to = &mut sums[m].0[side];
                    let chain = L::add(wide, wide.load(to), sum, self.heads[side][piece], head);
                    wide.store(chain, to);
                }
            }
        }
    }
}

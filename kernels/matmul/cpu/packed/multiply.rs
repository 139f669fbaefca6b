//! The arithmetic: some rows of activations with sixteen outputs at a time.

use std::{marker::PhantomData, ops::Range};

use super::{
    Layout, MANY_ROWS, PackedProduct, QUADS, ROWS, SIDE,
    layout::ask_ahead,
    many::{self, Many},
    rounded::{GroupRows, Head, Quads},
};
use crate::cpu::simd::{Kernel, Simd, Wide};

/// Rows `rows` of a product.
pub(super) struct Multiply<'a, L> {
    product: &'a PackedProduct<'a>,
    x: &'a GroupRows,
    rows: Range<usize>,
    layout: PhantomData<L>,
}

impl<'a, L: Layout> Multiply<'a, L> {
    pub(super) fn of(product: &'a PackedProduct<'a>, x: &'a GroupRows, rows: Range<usize>) -> Self {
        Self { product, x, rows, layout: PhantomData }
    }
}

impl<L: Layout> Kernel for Multiply<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Where products are of pairs, a byte is a short.
        let bytes = S::DOTS_QUADS && self.x.bytes;
        if many::fits::<S>() && self.rows.len() >= MANY_ROWS {
            let many = Many::<L>::of(self.product, self.x, self.rows);
            if bytes { many.all::<S, true, 4>(simd) } else { many.all::<S, false, 2>(simd) }
        } else if bytes {
            self.all::<S, true>(simd)
        } else {
            self.all::<S, false>(simd)
        }
    }
}

impl<L: Layout> Multiply<'_, L> {
    /// Outputs outside, rows inside: sixteen outputs' weights stay in the first-level cache while all rows pass.
    #[inline(always)]
    fn all<S: Simd, const BYTES: bool>(&self, simd: S) {
        for output in self.product.outputs.clone().step_by(SIDE) {
            let mut row = self.rows.start;
            while row < self.rows.end {
                row += match self.rows.end - row {
                    1 => self.some::<S, BYTES, 1>(simd, output, row),
                    2 | 3 => self.some::<S, BYTES, 2>(simd, output, row),
                    _ => self.some::<S, BYTES, ROWS>(simd, output, row),
                };
            }
        }
    }

    /// Of each of `M` rows from `row` on the sums of sixteen outputs; returns `M`. The first rows ask for weights ahead, the
    /// others find them in the cache.
    #[inline(always)]
    fn some<S: Simd, const BYTES: bool, const M: usize>(&self, simd: S, output: usize, row: usize) -> usize {
        let (wide, is_first) = (simd.wide(), row == self.rows.start);
        let (PackedProduct { picked, weight, outputs, place, .. }, x) = (self.product, self.x);
        let (blocks, side) = (x.layout(), weight.side(output));
        let x: [(&[Quads], &[Head]); M] = std::array::from_fn(|m| x.from(blocks.first(picked.at(row + m))));
        assert!(side.len() == blocks.groups / L::SPAN * L::BYTES, "weights of as many groups");
        let mut chains = [wide.splat(0.0); M];
        for (index, span) in side.chunks_exact(L::BYTES).enumerate() {
            for part in 0..L::SPAN {
                if is_first {
                    ask_ahead::<S, L>(simd, span, part);
                }
                let at = blocks.later(index * L::SPAN + part);
                let group = std::array::from_fn(|m| (&x[m].0[at], &x[m].1[at]));
                for piece in 0..L::PIECES {
                    add_piece::<S, L, BYTES, M>(simd, span, [part, piece], group, &mut chains);
                }
            }
        }
        let (first, count) = (output - outputs.start, (outputs.end - output).min(SIDE));
        for (index, sums) in chains.into_iter().enumerate() {
            let mut values = [0.0; SIDE];
            wide.store(sums, &mut values);
            place.put_side(row + index, first, &values, count);
        }
        M
    }
}

/// Adds to each row's chain what a piece of the span's group `part` gives, which is group `x` of the row. Where `BYTES`,
/// the upper bytes of activations are known to be none.
#[inline(always)]
fn add_piece<S: Simd, L: Layout, const BYTES: bool, const M: usize>(
    simd: S,
    span: &[u8],
    [part, piece]: [usize; 2],
    x: [(&Quads, &Head); M],
    chains: &mut [<S::Wide as Wide>::F; M],
) {
    let wide = simd.wide();
    let mut uppers = [wide.splat_int(0); M];
    let mut sums = uppers;
    for m in 0..M {
        sums[m] = wide.splat_int(L::start(x[m].1, piece));
    }
    for both in piece * QUADS / 2 / L::PIECES..(piece + 1) * QUADS / 2 / L::PIECES {
        for (quants, at) in L::quads(wide, span, part, both).into_iter().zip(2 * both..) {
            // By indices: of arrays lent to iterators the compiler keeps nothing in registers.
            for m in 0..M {
                let [first, second] = &x[m].0.0;
                let (first, second) = (wide.splat_int(first[at]), wide.splat_int(second[at]));
                if S::DOTS_QUADS {
                    if !BYTES {
                        uppers[m] = wide.dot_quads(uppers[m], quants, first);
                    }
                    sums[m] = wide.dot_quads(sums[m], quants, second);
                } else {
                    let (even, odd) = wide.even_and_odd(quants);
                    sums[m] = wide.add_int(sums[m], wide.dot_pairs(even, first));
                    sums[m] = wide.add_int(sums[m], wide.dot_pairs(odd, second));
                }
            }
        }
    }
    let of_weights = L::head(wide, span, part * L::PIECES + piece);
    for m in 0..M {
        let head = x[m].1;
        let mut sum = sums[m];
        if S::DOTS_QUADS && !BYTES {
            sum = wide.add_int(sum, wide.shift_left::<8>(uppers[m]));
        }
        chains[m] = L::add(wide, chains[m], sum, of_weights, head);
    }
}

//! The arithmetic: some rows of activations with two octets of outputs at a time.

use std::{marker::PhantomData, ops::Range};

use super::{
    Layout, OCTETS, PackedProduct, QUADS, ROWS, SIDE,
    shorts::{Head, Quads},
};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// How far ahead of the weights being read others are asked for.
const PREFETCH_BYTES: usize = 2048;

/// Rows `rows` of a product.
pub(super) struct Multiply<'a, L> {
    product: &'a PackedProduct<'a>,
    rows: Range<usize>,
    layout: PhantomData<L>,
}

impl<'a, L: Layout> Multiply<'a, L> {
    pub(super) fn of(product: &'a PackedProduct<'a>, rows: Range<usize>) -> Self {
        Self { product, rows, layout: PhantomData }
    }
}

impl<L: Layout> Kernel for Multiply<'_, L> {
    type Output = ();

    /// Octets outside, rows inside: two octets' weights stay in the first-level cache while all rows pass.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let outputs = self.product.outputs.clone();
        for output in outputs.step_by(SIDE) {
            let octets = self.product.weight.octets(output);
            let mut row = self.rows.start;
            while row < self.rows.end {
                row += match self.rows.end - row {
                    1 => self.rows::<S, 1>(simd, octets, output, row),
                    2 => self.rows::<S, 2>(simd, octets, output, row),
                    3 => self.rows::<S, 3>(simd, octets, output, row),
                    _ => self.rows::<S, ROWS>(simd, octets, output, row),
                };
            }
        }
    }
}

impl<L: Layout> Multiply<'_, L> {
    /// `M` rows from `row` on; returns `M`.
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&self, simd: S, octets: &[u8], output: usize, row: usize) -> usize {
        if row == self.rows.start {
            self.some::<S, M, true>(simd, octets, output, row);
        } else {
            self.some::<S, M, false>(simd, octets, output, row);
        }
        M
    }

    /// Of each of `M` rows the sums of sixteen outputs. The `FIRST` rows ask for weights ahead, the others find them in the
    /// cache.
    #[inline(always)]
    fn some<S: Simd, const M: usize, const FIRST: bool>(&self, simd: S, octets: &[u8], output: usize, row: usize) {
        let PackedProduct { x, picked, outputs, place, .. } = self.product;
        let shorts = *x;
        let mut x: [(&[Quads], &[Head]); M] = [(&[], &[]); M];
        for (index, own) in x.iter_mut().enumerate() {
            *own = shorts.row(picked.at(row + index));
        }
        let mut chains = [[simd.splat(0.0); OCTETS]; M];
        let groups = x[0].0.len();
        assert!(
            x.iter().all(|(quads, heads)| quads.len() == groups && heads.len() == groups),
            "rows of as many groups"
        );
        assert!(octets.len() == groups / L::SPAN * L::BYTES * OCTETS, "weights of as many groups");
        for (span, both) in octets.chunks_exact(L::BYTES * OCTETS).enumerate() {
            let blocks: [&[u8]; OCTETS] = both.split_at(L::BYTES).into();
            for part in 0..L::SPAN {
                let group = span * L::SPAN + part;
                if FIRST {
                    let bytes = L::BYTES * OCTETS / L::SPAN;
                    for line in (part * bytes..(part + 1) * bytes).step_by(64) {
                        simd.prefetch(both.as_ptr().wrapping_add(PREFETCH_BYTES + line));
                    }
                }
                for piece in 0..L::PIECES {
                    let mut sums = [[simd.splat_int(0); OCTETS]; M];
                    let mut uppers = sums;
                    for both in piece * QUADS / 2 / L::PIECES..(piece + 1) * QUADS / 2 / L::PIECES {
                        let [first, second] = blocks;
                        let [first, second] = [L::quads(simd, first, part, both), L::quads(simd, second, part, both)];
                        for quad in 0..2 {
                            let quants = [first[quad], second[quad]];
                            let (half, at) = (both / 2, both % 2 * 2 + quad);
                            // By indices: of arrays lent to iterators the compiler keeps nothing in registers.
                            for m in 0..M {
                                let [first, second] = &x[m].0[group][half];
                                let (first, second) = (simd.splat_int(first[at]), simd.splat_int(second[at]));
                                for o in 0..OCTETS {
                                    if S::DOTS_QUADS {
                                        uppers[m][o] = simd.dot_quads(uppers[m][o], quants[o], first);
                                        sums[m][o] = simd.dot_quads(sums[m][o], quants[o], second);
                                    } else {
                                        let (even, odd) = simd.even_and_odd(quants[o]);
                                        sums[m][o] = simd.add_int(sums[m][o], simd.dot_pairs(even, first));
                                        sums[m][o] = simd.add_int(sums[m][o], simd.dot_pairs(odd, second));
                                    }
                                }
                            }
                        }
                    }
                    for o in 0..OCTETS {
                        let (scale, offset) = L::head(simd, blocks[o], part * L::PIECES + piece);
                        for m in 0..M {
                            let head = &x[m].1[group];
                            let mut sum = sums[m][o];
                            if S::DOTS_QUADS {
                                sum = simd.add_int(sum, simd.shift_left::<8>(uppers[m][o]));
                            }
                            if L::ZERO != 0 {
                                let total = if L::PIECES == 1 { head.total } else { head.halves[piece] };
                                sum = simd.sub_int(sum, simd.splat_int(L::ZERO * total));
                            }
                            let step = simd.mul(scale, simd.splat(head.step));
                            chains[m][o] = simd.fma(simd.float(sum), step, chains[m][o]);
                            if L::OFFSETS {
                                chains[m][o] = simd.fma(offset, simd.splat(head.sum), chains[m][o]);
                            }
                        }
                    }
                }
            }
        }
        let (first, count) = (output - outputs.start, (outputs.end - output).min(SIDE));
        for (index, sums) in chains.into_iter().enumerate() {
            let mut values = [0.0; SIDE];
            for (sum, values) in sums.into_iter().zip(values.as_chunks_mut::<LANES>().0) {
                simd.store(sum, values);
            }
            place.put(row + index, first, &values[..count]);
        }
    }
}

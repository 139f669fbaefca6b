//! Few rows: the time goes into reading weights. Quants are multiplied as they are, and their sums with the factors, which comes
//! to the same as products of words.
//!
//! ```text
//! Σ word · a = factor · Σ quant · a + offset · Σ a
//! ```

use std::{marker::PhantomData, ops::Range};

use super::{Layout, PackedProduct, QUADS, SIDE, STEP, Stretch, WordRows, rows::Lines};
use crate::cpu::simd::{Avx2, Avx512, Kernel512, TileRow, Wide};

/// So many rows at most are faster without tiles.
pub(super) const FEW_ROWS: usize = 2;

/// Sums of a group's activations: of each plane, upper bytes and lower ones, those of both halves.
pub(super) type Sums = [[i32; 2]; 2];

/// Computes rows `rows` of a product, [`FEW_ROWS`] at most, where `x` has sums.
pub(super) fn run<L: Layout>(product: &PackedProduct, x: &WordRows, rows: Range<usize>, avx512: Avx2<true>) {
    match rows.len() {
        1 => avx512.run_512(Few::<L, 1>::of(product, x, rows)),
        _ => avx512.run_512(Few::<L, FEW_ROWS>::of(product, x, rows)),
    }
}

/// `M` rows.
struct Few<'a, L, const M: usize> {
    product: &'a PackedProduct<'a>,
    rows: Range<usize>,
    /// Whether words of activations have 8 bits.
    bytes: bool,
    layout: Lines,
    x: [Row<'a>; M],
    format: PhantomData<L>,
}

/// A row's lines, sums and scales, as [`Lines`] says.
#[derive(Clone, Copy)]
struct Row<'a> {
    lines: &'a [TileRow],
    sums: &'a [Sums],
    scales: &'a [f32],
}

impl<'a, L: Layout, const M: usize> Few<'a, L, M> {
    fn of(product: &'a PackedProduct<'a>, x: &'a WordRows, rows: Range<usize>) -> Self {
        let layout = x.layout();
        let row = |index: usize| {
            let row = product.picked.at(rows.start + index);
            let (lines, scales) = (&x.lines()[layout.line(row)..], &x.scales()[layout.scale(row)..]);
            Row { lines, sums: &x.sums()[layout.sum(row)..], scales }
        };
        let x_of_rows = std::array::from_fn(row);
        Self { product, rows, bytes: x.bytes, layout, x: x_of_rows, format: PhantomData }
    }
}

impl<L: Layout, const M: usize> Kernel512 for Few<'_, L, M> {
    #[inline(always)]
    fn run(self, avx512: Avx512) {
        for output in self.product.outputs.clone().step_by(SIDE) {
            if self.bytes { self.some::<true>(avx512, output) } else { self.some::<false>(avx512, output) }
        }
    }
}

#[expect(clippy::needless_range_loop, reason = "of arrays lent to iterators the compiler keeps nothing in registers")]
impl<L: Layout, const M: usize> Few<'_, L, M> {
    /// Sixteen outputs. Where `BYTES`, words of activations are their lower bytes.
    #[inline(always)]
    fn some<const BYTES: bool>(&self, avx512: Avx512, output: usize) {
        let PackedProduct { weight, outputs, place, .. } = self.product;
        let layout = self.layout;
        let mut rest = weight.side(output);
        let mut chains = [avx512.splat(0.0); M];
        for (index, groups) in layout.cut.stretches().enumerate() {
            let (stretch, behind) = Stretch::of::<L>(rest, groups.len());
            let mut totals = [[avx512.splat_int(0); 2]; M];
            for (group, own) in groups.enumerate() {
                stretch.ask_ahead::<L>(avx512, group);
                self.add::<BYTES>(avx512, &stretch, [group, own], &mut totals);
            }
            let of_weights = avx512.bits(avx512.words(stretch.scales));
            for m in 0..M {
                let [upper, lower] = totals[m];
                let sum = if BYTES { lower } else { avx512.add_int(upper, avx512.divide::<8>(lower)) };
                let scale = avx512.mul(of_weights, avx512.splat(self.x[m].scales[index * layout.rows]));
                chains[m] = avx512.fma(avx512.float(sum), scale, chains[m]);
            }
            rest = behind;
        }
        let count = (outputs.end - output).min(SIDE);
        for (row, chain) in self.rows.clone().zip(chains) {
            let mut values = [0.0; SIDE];
            avx512.store(chain, &mut values);
            place.put_side(row, output - outputs.start, &values, count);
        }
    }

    /// Adds to each row's sums, of upper bytes and of lower ones, what the stretch's group `group` gives, which is group `own`
    /// of the row.
    #[inline(always)]
    fn add<const BYTES: bool>(
        &self,
        avx512: Avx512,
        stretch: &Stretch,
        [group, own]: [usize; 2],
        totals: &mut [[<Avx512 as Wide>::I; 2]; M],
    ) {
        let quants = stretch.quants::<L>(group);
        let half = 1 << (L::WIDTH.bits() - 1);
        let excess = avx512.splat_int(half * 0x0101_0101);
        let planes = if BYTES { 1 } else { 0 }..2;
        for piece in 0..L::PIECES {
            let (factor, offset) = stretch.factor_and_offset::<L>(avx512, group, piece);
            let mut sums = [[avx512.splat_int(0); 2]; M];
            let mut of_rows = [[0; 2]; M];
            for m in 0..M {
                let halves = &self.x[m].sums[own * self.layout.rows];
                for plane in planes.clone() {
                    let [first, second] = halves[plane];
                    of_rows[m][plane] = if L::PIECES == 1 { first + second } else { halves[plane][piece] };
                    // Quants have no sign here, and are so much too large.
                    sums[m][plane] = avx512.splat_int(-half * of_rows[m][plane]);
                }
            }
            for both in piece * QUADS / 2 / L::PIECES..(piece + 1) * QUADS / 2 / L::PIECES {
                for (quad, quants) in (2 * both..).zip(L::WIDTH.quads(avx512, quants, both)) {
                    let quants = avx512.xor(quants, excess);
                    for m in 0..M {
                        for plane in planes.clone() {
                            let line = &self.x[m].lines[(own / STEP * 2 + plane) * self.layout.rows].0;
                            let four = i32::from_le_bytes(line.as_chunks().0[own % STEP * QUADS + quad]);
                            sums[m][plane] = avx512.dot_quads(sums[m][plane], quants, avx512.splat_int(four));
                        }
                    }
                }
            }
            for m in 0..M {
                for plane in planes.clone() {
                    let mut total = avx512.add_int(totals[m][plane], avx512.mul_int(factor, sums[m][plane]));
                    if L::OFFSETS {
                        // A sum and nothing as a pair.
                        let sum = avx512.splat_int(of_rows[m][plane] & 0xffff);
                        total = avx512.dot_pairs_onto(total, offset, sum);
                    }
                    totals[m][plane] = total;
                }
            }
        }
    }
}

//! A few rows of `x`: weights are decoded in registers and used at once.

use std::marker::PhantomData;

use super::{
    super::formats::{Format, GROUP},
    Product, all_sums,
    decode::decoded_tail,
    eight,
};
use crate::cpu::simd::{Kernel, LANES, Simd, padded};

/// How far ahead of the weights being read others are asked for, at least: a few hundred nanoseconds' worth.
const PREFETCH_BYTES: usize = 3 * 1024;

/// At most `M` rows of `x`, `R` outputs at a time, weights decoded in registers.
pub(super) struct Direct<'a, F, const R: usize, const M: usize> {
    product: &'a Product<'a>,
    format: PhantomData<F>,
}

impl<'a, F, const R: usize, const M: usize> Direct<'a, F, R, M> {
    pub(super) fn of(product: &'a Product<'a>) -> Self {
        Self { product, format: PhantomData }
    }
}

impl<F: Format, const R: usize, const M: usize> Kernel for Direct<'_, F, R, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { x, part, rows, place, .. } = self.product;
        // Where there are fewer rows than the kernel has room for, the last one is computed again.
        let mut x_rows: [&[f32]; M] = [&[]; M];
        for (row, values) in x_rows.iter_mut().enumerate() {
            *values = x.row(row.min(x.count() - 1));
        }
        // The hardware's own prefetching does not follow several rows that are read side by side.
        let ahead = (R * part.row_stride()).max(PREFETCH_BYTES);
        for at in (0..rows.len()).step_by(R) {
            let mut weights: [&[u8]; R] = [&[]; R];
            for (index, weights) in weights.iter_mut().enumerate() {
                *weights = part.row((rows.start + at + index).min(rows.end - 1));
            }
            let sums = direct::<S, F, R, M>(simd, weights, x_rows, ahead);
            for (row, sums) in sums.iter().enumerate().take(x.count()) {
                place.put(row, at, &sums[..R.min(rows.len() - at)]);
            }
        }
    }
}

/// For each row of `x` its `R` outputs.
#[inline(always)]
fn direct<S: Simd, F: Format, const R: usize, const M: usize>(
    simd: S,
    weights: [&[u8]; R],
    x: [&[f32]; M],
    ahead: usize,
) -> [[f32; R]; M] {
    let columns = x[0].len();
    let mut chains = [[simd.splat(0.0); R]; M];
    let mut blocks = weights;
    let whole_blocks = columns / (F::GROUPS * GROUP);
    assert!(weights.iter().all(|row| row.len() >= whole_blocks * F::BYTES), "rows of whole blocks");
    assert!(x.iter().all(|row| row.len() == columns), "rows of as many columns");
    for block in 0..whole_blocks {
        for r in 0..R {
            // SAFETY: rows have this many whole blocks, as asserted above.
            blocks[r] = unsafe { weights[r].get_unchecked(block * F::BYTES..(block + 1) * F::BYTES) };
            for line in (0..F::BYTES).step_by(64) {
                simd.prefetch(blocks[r].as_ptr().wrapping_add(ahead + line));
            }
        }
        let mut headers = [F::header(simd, blocks[0]); R];
        for r in 1..R {
            headers[r] = F::header(simd, blocks[r]);
        }
        // Group by group, not row by row: the chains of the rows hide each other's latency.
        for group in 0..F::GROUPS {
            for r in 0..R {
                let decoded = F::group(simd, blocks[r], &headers[r], group);
                for (part, decoded) in decoded.into_iter().enumerate() {
                    for m in 0..M {
                        let at = (block * F::GROUPS + group) * GROUP + part * LANES;
                        // SAFETY: the groups of the whole blocks are within the columns, as many as every row has.
                        let x = simd.load(unsafe { &*x[m].as_ptr().add(at).cast() });
                        chains[m][r] = simd.fma(decoded, x, chains[m][r]);
                    }
                }
            }
        }
    }
    if !columns.is_multiple_of(GROUP) {
        for r in 0..R {
            let tail = decoded_tail(F::DTYPE, weights[r], columns);
            for start in (0..columns % GROUP).step_by(LANES) {
                let decoded = simd.load(eight(&tail, start));
                for m in 0..M {
                    let x = simd.load(&padded(x[m], columns / GROUP * GROUP + start));
                    chains[m][r] = simd.fma(decoded, x, chains[m][r]);
                }
            }
        }
    }
    all_sums(simd, chains)
}

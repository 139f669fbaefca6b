//! Many rows of `x`: a panel of outputs is decoded to memory, then multiplied with all of them.

use std::cell::RefCell;

use super::{Product, all_sums, decode, eight};
use crate::cpu::{
    Floats,
    simd::{Isa, Kernel, LANES, Simd, padded},
};

/// From this many rows of `x` on, panels are used: the direct kernels take up to four.
pub(super) const PANEL_ROWS: usize = 5;
/// Floats of a panel: it shall stay in a core's second-level cache.
const PANEL_FLOATS: usize = 48 * 1024;
/// Outputs that the panel's micro-kernel computes side by side …
pub(super) const SIDE: usize = 4;
/// … for this many rows of `x`: twelve chains, as many as hide the latency and leave registers for their operands.
const ROWS: usize = 3;

thread_local! {
    /// Each thread's own panel, kept from call to call.
    static PANEL: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

/// Outputs of a panel.
pub(super) fn panel_outputs(inputs: usize) -> usize {
    (PANEL_FLOATS / inputs.max(1) / SIDE * SIDE).clamp(SIDE, 16 * SIDE)
}

impl Product<'_> {
    /// Decodes the item's outputs to memory, then multiplies them with all rows of `x`.
    pub(super) fn by_panels(&self, isa: Isa) {
        PANEL.with_borrow_mut(|values| {
            let stride = self.part.columns().next_multiple_of(LANES);
            let outputs = panel_outputs(stride);
            for first in (0..self.rows.len()).step_by(outputs) {
                let count = outputs.min(self.rows.len() - first);
                values.resize(count * stride);
                for (index, values) in values.chunks_exact_mut(stride).enumerate() {
                    decode(isa, self.part, self.rows.start + first + index, values);
                }
                isa.run(Panel { product: self, values, stride, count, first });
            }
        });
    }
}

/// Decoded outputs `first .. first + count` of a product, one per `stride` floats, zeros after the last weight.
struct Panel<'a> {
    product: &'a Product<'a>,
    values: &'a [f32],
    stride: usize,
    count: usize,
    first: usize,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.product.x.count();
        let mut row = 0;
        while row + ROWS <= rows {
            self.rows::<S, ROWS>(simd, row);
            row += ROWS;
        }
        while row < rows {
            self.rows::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl Panel<'_> {
    /// `M` rows of `x` with all of the panel's outputs.
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&self, simd: S, row: usize) {
        let mut x: [&[f32]; M] = [&[]; M];
        for (index, x) in x.iter_mut().enumerate() {
            *x = self.product.x.row(row + index);
        }
        for at in (0..self.count).step_by(SIDE) {
            let mut weights: [&[f32]; SIDE] = [&[]; SIDE];
            for (index, weights) in weights.iter_mut().enumerate() {
                *weights = &self.values[(at + index).min(self.count - 1) * self.stride..][..self.stride];
            }
            let sums = tile(simd, weights, x);
            for (index, sums) in sums.iter().enumerate() {
                self.product.place.put(row + index, self.first + at, &sums[..SIDE.min(self.count - at)]);
            }
        }
    }
}

/// For each row of `x` its `R` outputs: `R · M` chains side by side.
#[inline(always)]
fn tile<S: Simd, const R: usize, const M: usize>(simd: S, weights: [&[f32]; R], x: [&[f32]; M]) -> [[f32; R]; M] {
    let columns = x[0].len();
    let steps = columns / LANES;
    let mut w_lanes: [&[[f32; LANES]]; R] = [&[]; R];
    for r in 0..R {
        w_lanes[r] = &weights[r].as_chunks().0[..steps];
    }
    let mut x_lanes: [&[[f32; LANES]]; M] = [&[]; M];
    for m in 0..M {
        x_lanes[m] = &x[m].as_chunks().0[..steps];
    }
    let mut chains = [[simd.splat(0.0); R]; M];
    for step in 0..steps {
        let mut values = [simd.splat(0.0); M];
        for m in 0..M {
            values[m] = simd.load(&x_lanes[m][step]);
        }
        for r in 0..R {
            let weight = simd.load(&w_lanes[r][step]);
            for m in 0..M {
                chains[m][r] = simd.fma(weight, values[m], chains[m][r]);
            }
        }
    }
    if !columns.is_multiple_of(LANES) {
        for r in 0..R {
            let weight = simd.load(eight(weights[r], steps * LANES));
            for m in 0..M {
                chains[m][r] = simd.fma(weight, simd.load(&padded(x[m], steps * LANES)), chains[m][r]);
            }
        }
    }
    all_sums(simd, chains)
}

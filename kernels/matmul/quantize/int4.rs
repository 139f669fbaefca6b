//! Which scale and zero point suit a group of 4-bit weights.

use half::f16;

use super::{blocks::store_wint4, half_scale};
use crate::cpu::simd::{Isa, Kernel, LANES, Simd};

/// The parts of a group's range that are tried. To cut off a few values at its ends makes all others more exact; a
/// little more than all of it makes up for a zero point that is not where zero lies. To cut off more makes the squared error
/// a little smaller still, and models worse: outliers matter more than their number (SmolLM2's perplexity over the
/// reference's text is 29.7 with these, 29.9 with shares down to 0.72).
const SHARES: [f32; 5] = [1.0, 1.04, 0.96, 0.92, 0.88];

/// Appends a block of `values` with a small squared error: never a larger one than the scale `(max − min) / 15` and the
/// nearest zero point have, the range made to include zero. For bell-shaped weights it is about a tenth smaller.
pub(super) fn quantize<const N: usize>(values: &[f32; N], to: &mut Vec<u8>) {
    let (grid, quants) = Isa::detect().run(Search { values });
    store_wint4(f16::from_f32(grid.scale), grid.zero_point as u8, &quants, to);
}

/// Sixteen evenly spaced values, one of them zero.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Grid {
    /// As f16 holds it.
    scale: f32,
    /// A whole number from 0 to 15.
    zero_point: f32,
}

/// How well a grid suits a group.
struct Fit {
    squared_error: f32,
    /// The scale that would suit the same quants best.
    scale: f32,
}

/// Tries each share of the range with the zero point that is nearest to where zero lies, and again with the scale that
/// suits the quants of the first try best. No multiplication is fused with an addition, so that all machines choose
/// alike.
struct Search<'a, const N: usize> {
    values: &'a [f32; N],
}

impl<const N: usize> Kernel for Search<'_, N> {
    type Output = (Grid, [u8; N]);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let values = self.values.as_chunks().0;
        let (min, max) =
            self.values.iter().fold((0.0f32, 0.0f32), |(min, max), &value| (min.min(value), max.max(value)));
        let mut best = Grid { scale: 0.0, zero_point: 0.0 };
        let mut least_error = best.fit(simd, values).squared_error;
        for share in SHARES {
            let mut grid = Grid { scale: half_scale(share * (max / 15.0 - min / 15.0)).to_f32(), zero_point: 0.0 };
            if grid.scale > 0.0 {
                grid.zero_point = (-min * share / grid.scale).round().min(15.0);
            }
            for _ in 0..2 {
                let fit = grid.fit(simd, values);
                if fit.squared_error < least_error {
                    (best, least_error) = (grid, fit.squared_error);
                }
                grid.scale = half_scale(fit.scale).to_f32();
            }
        }
        (best, best.quants(simd, self.values))
    }
}

impl Grid {
    /// The nearest of the sixteen, numbered from 0 to 15; where the scale is zero, the zero point.
    #[inline(always)]
    fn nearest<S: Simd>(&self, simd: S, values: S::F) -> S::F {
        let inverse = if self.scale > 0.0 { 1.0 / self.scale } else { 0.0 };
        let quants = simd.add(simd.mul(values, simd.splat(inverse)), simd.splat(self.zero_point));
        let quants = simd.min(simd.max(quants, simd.splat(0.0)), simd.splat(15.0));
        // Beside 2²³ there are no bits for a fraction: the sum is rounded.
        let whole = simd.splat((1 << 23) as f32);
        simd.sub(simd.add(quants, whole), whole)
    }

    #[inline(always)]
    fn fit<S: Simd>(&self, simd: S, values: &[[f32; LANES]]) -> Fit {
        let (scale, zero_point) = (simd.splat(self.scale), simd.splat(self.zero_point));
        let [mut squared_error, mut along, mut square] = [simd.splat(0.0); 3];
        for values in values {
            let values = simd.load(values);
            let steps = simd.sub(self.nearest(simd, values), zero_point);
            let error = simd.sub(values, simd.mul(scale, steps));
            squared_error = simd.add(squared_error, simd.mul(error, error));
            along = simd.add(along, simd.mul(values, steps));
            square = simd.add(square, simd.mul(steps, steps));
        }
        Fit { squared_error: simd.sum(squared_error), scale: simd.sum(along) / simd.sum(square).max(1.0) }
    }

    #[inline(always)]
    fn quants<S: Simd, const N: usize>(&self, simd: S, values: &[f32; N]) -> [u8; N] {
        let mut quants = [0; N];
        for (values, quants) in values.as_chunks().0.iter().zip(quants.as_chunks_mut::<LANES>().0) {
            let mut lanes = [0.0; LANES];
            simd.store(self.nearest(simd, simd.load(values)), &mut lanes);
            *quants = lanes.map(|lane| lane as u8);
        }
        quants
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{groups, there_and_back},
        *,
    };
    use crate::{DType, cpu::simd::Portable, samples::Samples};

    /// Straight from its definition, in f64.
    fn error_by_minimum_and_maximum(values: &[f32]) -> f64 {
        let min = values.iter().fold(0.0f32, |min, &value| min.min(value));
        let max = values.iter().fold(0.0f32, |max, &value| max.max(value));
        let scale = half::f16::from_f32(max / 15.0 - min / 15.0).to_f64().min(65504.0);
        if scale == 0.0 {
            return squared_error(values, &vec![0.0; values.len()]);
        }
        let zero_point = (f64::from(-min) / scale).round().clamp(0.0, 15.0);
        let back = values.iter().map(|&value| {
            let quant = (f64::from(value) / scale + zero_point).round_ties_even().clamp(0.0, 15.0);
            (scale * (quant - zero_point)) as f32
        });
        squared_error(values, &back.collect::<Vec<_>>())
    }

    fn squared_error(values: &[f32], back: &[f32]) -> f64 {
        values.iter().zip(back).map(|(&value, &back)| (f64::from(value) - f64::from(back)).powi(2)).sum()
    }

    /// The errors of ours and of the plain one.
    fn errors(dtype: DType, values: &[f32]) -> (f64, f64) {
        (squared_error(values, &there_and_back(dtype, values)), error_by_minimum_and_maximum(values))
    }

    #[test]
    fn the_error_is_never_larger_than_that_of_minimum_and_maximum() {
        for group in groups() {
            for dtype in [DType::WInt4, DType::WInt4G32] {
                for values in group.chunks(dtype.block_elements()) {
                    let (ours, plain) = errors(dtype, values);
                    // Errors are compared as sums of f32.
                    assert!(ours <= plain * 1.00001 + 1e-30, "{dtype:?}: {ours} > {plain} for {values:?}");
                }
            }
        }
    }

    #[test]
    fn the_search_is_worth_its_time_on_bell_shaped_weights() {
        let mut samples = Samples::new(5);
        for dtype in [DType::WInt4, DType::WInt4G32] {
            let (mut ours, mut plain) = (0.0, 0.0);
            for _ in 0..200 {
                let values: Vec<f32> = (0..dtype.block_elements()).map(|_| samples.bell()).collect();
                let errors = errors(dtype, &values);
                (ours, plain) = (ours + errors.0, plain + errors.1);
            }
            assert!(ours < 0.95 * plain, "{dtype:?}: {ours} instead of {plain}");
        }
    }

    #[test]
    fn every_machine_chooses_alike() {
        for group in groups() {
            let values: &[f32; 128] = group.as_slice().try_into().unwrap();
            let search = || Search { values };
            assert_eq!(Isa::detect().run(search()), Isa::Portable(Portable).run(search()), "{values:?}");
        }
    }
}

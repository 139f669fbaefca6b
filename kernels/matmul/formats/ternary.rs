//! Formats of weights that are −1, 0 or 1 times a scale.

use super::{Format, GROUP, four, scaled, two_bits};
use crate::{
    DType,
    cpu::simd::{LANES, Simd},
    matmul::dequantize::element,
};

pub(in crate::matmul) struct Tq1_0;
pub(in crate::matmul) struct Tq2_0;

impl Format for Tq1_0 {
    const DTYPE: DType = DType::TQ1_0;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    /// One weight at a time: rare, and five to a byte is an awkward number for lanes.
    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], _: &(), group: usize) -> [S::F; 4] {
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            let mut lanes = [0.0; LANES];
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = element(DType::TQ1_0, block, group * GROUP + part * LANES + lane);
            }
            *weights = simd.load(&lanes);
        }
        weights
    }
}

impl Format for Tq2_0 {
    const DTYPE: DType = DType::TQ2_0;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (_, scale) = simd.splat_halves(four(block, 62));
        [scale, simd.sub(simd.splat(0.0), scale)]
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, offset]: &[S::F; 2], group: usize) -> [S::F; 4] {
        scaled(simd, two_bits(simd, block, 0, group), scale, offset)
    }
}

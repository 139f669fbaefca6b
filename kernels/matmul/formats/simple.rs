//! ggml's older formats: 32 weights, a scale, perhaps a minimum.

use super::{Format, four, nibbles, scaled, signed, times};
use crate::{DType, cpu::simd::Simd};

pub(in crate::matmul) struct Q8_0;
pub(in crate::matmul) struct Q4_0;
pub(in crate::matmul) struct Q4_1;
pub(in crate::matmul) struct Q5_0;
pub(in crate::matmul) struct Q5_1;

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat_halves(four(block, 0)).0
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, _: usize) -> [S::F; 4] {
        times(simd, scale, signed(simd, block, 2))
    }
}

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (scale, _) = simd.splat_halves(four(block, 0));
        // Exact: a half times a small integer, and their sum, fit in 24 bits.
        [scale, simd.mul(scale, simd.splat(-8.0))]
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, offset]: &[S::F; 2], _: usize) -> [S::F; 4] {
        scaled(simd, nibbles(simd, block, 2), scale, offset)
    }
}

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat_halves(four(block, 0)).into()
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, minimum]: &[S::F; 2], _: usize) -> [S::F; 4] {
        scaled(simd, nibbles(simd, block, 4), scale, minimum)
    }
}

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (scale, _) = simd.splat_halves(four(block, 0));
        [scale, simd.mul(scale, simd.splat(-16.0))]
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, offset]: &[S::F; 2], _: usize) -> [S::F; 4] {
        let quants = with_fifth_bit(simd, nibbles(simd, block, 6), block, 2);
        scaled(simd, quants, scale, offset)
    }
}

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat_halves(four(block, 0)).into()
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, minimum]: &[S::F; 2], _: usize) -> [S::F; 4] {
        let quants = with_fifth_bit(simd, nibbles(simd, block, 8), block, 4);
        scaled(simd, quants, scale, minimum)
    }
}

/// Adds the fifth bits, 32 of them in the four bytes from `at` on.
#[inline(always)]
fn with_fifth_bit<S: Simd>(simd: S, mut quants: [S::I; 4], block: &[u8], at: usize) -> [S::I; 4] {
    let bits = simd.splat_int(i32::from_le_bytes(*four(block, at)));
    let one = simd.splat_int(1);
    for (part, quants) in quants.iter_mut().enumerate() {
        let first = 8 * part as u8;
        let lanes = [first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6, first + 7];
        let own = simd.and(simd.shift_right_each(bits, simd.bytes(&lanes)), one);
        *quants = simd.or(*quants, simd.shift_left::<4>(own));
    }
    quants
}

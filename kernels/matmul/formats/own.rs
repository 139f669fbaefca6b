//! Our own formats: 128 weights, or 32, and a scale.

use super::{Format, GROUP, eight, four, nibbles, scaled, signed, times};
use crate::{
    DType,
    cpu::simd::{LANES, Simd, e4m3},
};

pub(in crate::matmul) struct WInt8;
pub(in crate::matmul) struct WInt4;
pub(in crate::matmul) struct WInt4G32;
pub(in crate::matmul) struct F8E4M3;

impl Format for WInt8 {
    const DTYPE: DType = DType::WInt8;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat(f32::from_le_bytes(*four(block, 0)))
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, group: usize) -> [S::F; 4] {
        times(simd, scale, signed(simd, block, 4 + group * GROUP))
    }
}

impl Format for WInt4 {
    const DTYPE: DType = DType::WInt4;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        scale_and_offset(simd, block)
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, offset]: &[S::F; 2], group: usize) -> [S::F; 4] {
        scaled(simd, nibbles(simd, block, 4 + group * GROUP / 2), scale, offset)
    }
}

impl Format for WInt4G32 {
    const DTYPE: DType = DType::WInt4G32;
    type Header<S: Simd> = [S::F; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        scale_and_offset(simd, block)
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &[scale, offset]: &[S::F; 2], _: usize) -> [S::F; 4] {
        scaled(simd, nibbles(simd, block, 3), scale, offset)
    }
}

impl Format for F8E4M3 {
    const DTYPE: DType = DType::F8_E4M3;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat(f32::from_le_bytes(*four(block, 0)))
    }

    /// Numbers are taken apart from the scale, which with their power of two could overflow.
    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, group: usize) -> [S::F; 4] {
        let mut values = [scale; 4];
        for (part, values) in values.iter_mut().enumerate() {
            *values = e4m3(simd, eight(block, 4 + group * GROUP + part * LANES));
        }
        times(simd, scale, values)
    }
}

/// Of a block of 4-bit weights, `scale` and `−scale · zero point`. Exact, as are a weight's product and sum: a half
/// times an integer up to 16 fits in 24 bits.
#[inline(always)]
fn scale_and_offset<S: Simd>(simd: S, block: &[u8]) -> [S::F; 2] {
    let (scale, _) = simd.splat_halves(four(block, 0));
    [scale, simd.mul(scale, simd.splat(-f32::from(block[2])))]
}

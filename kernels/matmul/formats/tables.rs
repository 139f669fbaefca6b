//! Formats whose nibbles number the entries of a table.

use super::{Format, four, nibbles, times};
use crate::{
    DType,
    cpu::simd::{LANES, Simd},
    matmul::dequantize::{IQ4, TWICE_E2M1, half_e8m0},
};

pub(in crate::matmul) struct Iq4Nl;
pub(in crate::matmul) struct Iq4Xs;
pub(in crate::matmul) struct Mxfp4;

impl Format for Iq4Nl {
    const DTYPE: DType = DType::IQ4_NL;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat_halves(four(block, 0)).0
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, _: usize) -> [S::F; 4] {
        times(simd, scale, looked_up(simd, &IQ4, block, 2))
    }
}

impl Format for Iq4Xs {
    const DTYPE: DType = DType::IQ4_XS;
    type Header<S: Simd> = [f32; 8];

    /// The scales have 6 bits, the upper two in bytes 2 and 3, the lower four in bytes 4 to 7, each from the lowest
    /// bits on.
    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (scale, _) = simd.splat_halves(four(block, 0));
        let lower = simd.splat_int(i32::from_le_bytes(*four(block, 4)));
        let lower =
            simd.and(simd.shift_right_each(lower, simd.bytes(&[0, 4, 8, 12, 16, 20, 24, 28])), simd.splat_int(15));
        let upper = simd.splat_int(i32::from_le_bytes(*four(block, 2)));
        let upper = simd.and(simd.shift_right_each(upper, simd.bytes(&[0, 2, 4, 6, 8, 10, 12, 14])), simd.splat_int(3));
        let own = simd.sub(simd.float(simd.or(lower, simd.shift_left::<4>(upper))), simd.splat(32.0));
        let mut scales = [0.0; 8];
        simd.store(simd.mul(scale, own), &mut scales);
        scales
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], scales: &[f32; 8], group: usize) -> [S::F; 4] {
        times(simd, simd.splat(scales[group]), looked_up(simd, &IQ4, block, 8 + 16 * group))
    }
}

impl Format for Mxfp4 {
    const DTYPE: DType = DType::MXFP4;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat(half_e8m0(block[0]))
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, _: usize) -> [S::F; 4] {
        times(simd, scale, looked_up(simd, &TWICE_E2M1, block, 1))
    }
}

/// The entries that 32 nibbles from `at` on say.
#[inline(always)]
fn looked_up<S: Simd>(simd: S, table: &[f32; 16], block: &[u8], at: usize) -> [S::F; 4] {
    let (halves, _) = table.as_chunks::<LANES>();
    let table = [simd.load(&halves[0]), simd.load(&halves[1])];
    let mut values = [table[0]; 4];
    for (values, index) in values.iter_mut().zip(nibbles(simd, block, at)) {
        *values = simd.pick(table, index);
    }
    values
}

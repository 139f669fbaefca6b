//! ggml's K formats: 256 weights, a scale (perhaps a minimum) for all, and small ones for groups of 16 or 32.

use super::{Format, GROUP, eight, four, scaled, two_bits};
use crate::{
    DType,
    cpu::simd::{LANES, Simd},
};

pub(in crate::matmul) struct Q2K;
pub(in crate::matmul) struct Q3K;
pub(in crate::matmul) struct Q4K;
pub(in crate::matmul) struct Q5K;
pub(in crate::matmul) struct Q6K;

impl Format for Q2K {
    const DTYPE: DType = DType::Q2_K;
    type Header<S: Simd> = [[f32; 16]; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (scale, minimum) = simd.splat_halves(four(block, 80));
        let minimum = simd.sub(simd.splat(0.0), minimum);
        let mut unpacked = [[0.0; 16]; 2];
        for part in 0..2 {
            let pairs = simd.bytes(eight(block, part * LANES));
            let low = simd.float(simd.and(pairs, simd.splat_int(15)));
            let high = simd.float(simd.shift_right::<4>(pairs));
            simd.store(simd.mul(scale, low), &mut unpacked[0].as_chunks_mut().0[part]);
            simd.store(simd.mul(minimum, high), &mut unpacked[1].as_chunks_mut().0[part]);
        }
        unpacked
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], [scales, minima]: &[[f32; 16]; 2], group: usize) -> [S::F; 4] {
        let quants = two_bits(simd, block, 16, group);
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            let own = 2 * group + part / 2;
            *weights = simd.fma(simd.float(quants[part]), simd.splat(scales[own]), simd.splat(minima[own]));
        }
        weights
    }
}

impl Format for Q3K {
    const DTYPE: DType = DType::Q3_K;
    type Header<S: Simd> = [[f32; 8]; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (_, scale) = simd.splat_halves(four(block, 106));
        let mut scales = [[0.0; 8]; 2];
        for (packed, scales) in unpack_sixteen(block).into_iter().zip(&mut scales) {
            let own = simd.sub(simd.float(simd.bytes(&packed.to_le_bytes())), simd.splat(32.0));
            simd.store(simd.mul(scale, own), scales);
        }
        scales
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], scales: &[[f32; 8]; 2], group: usize) -> [S::F; 4] {
        let low = two_bits(simd, block, 32, group);
        let (shift, one) = (simd.splat_int(group as i32), simd.splat_int(1));
        let scales = &scales.as_flattened()[2 * group..2 * group + 2];
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            let high = simd.and(simd.shift_right_each(simd.bytes(eight(block, part * LANES)), shift), one);
            let quants = simd.float(simd.or(low[part], simd.shift_left::<2>(high)));
            *weights = simd.mul(simd.splat(scales[part / 2]), simd.sub(quants, simd.splat(4.0)));
        }
        weights
    }
}

impl Format for Q4K {
    const DTYPE: DType = DType::Q4_K;
    type Header<S: Simd> = [[f32; 8]; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        scales_and_minima(simd, block)
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], [scales, minima]: &[[f32; 8]; 2], group: usize) -> [S::F; 4] {
        let quants = paired_nibbles(simd, block, 16, group);
        scaled(simd, quants, simd.splat(scales[group]), simd.splat(minima[group]))
    }
}

impl Format for Q5K {
    const DTYPE: DType = DType::Q5_K;
    type Header<S: Simd> = [[f32; 8]; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        scales_and_minima(simd, block)
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], [scales, minima]: &[[f32; 8]; 2], group: usize) -> [S::F; 4] {
        let mut quants = paired_nibbles(simd, block, 48, group);
        let (shift, one) = (simd.splat_int(group as i32), simd.splat_int(1));
        for (part, quants) in quants.iter_mut().enumerate() {
            let bits = simd.shift_right_each(simd.bytes(eight(block, 16 + part * LANES)), shift);
            *quants = simd.or(*quants, simd.shift_left::<4>(simd.and(bits, one)));
        }
        scaled(simd, quants, simd.splat(scales[group]), simd.splat(minima[group]))
    }
}

impl Format for Q6K {
    const DTYPE: DType = DType::Q6_K;
    type Header<S: Simd> = [[f32; 8]; 2];

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        let (_, scale) = simd.splat_halves(four(block, 206));
        let mut scales = [[0.0; 8]; 2];
        for (part, scales) in scales.iter_mut().enumerate() {
            let own = simd.float(simd.signed_bytes(eight(block, 192 + part * LANES)));
            simd.store(simd.mul(scale, own), scales);
        }
        scales
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], scales: &[[f32; 8]; 2], group: usize) -> [S::F; 4] {
        let (half, quarter) = (group / 4, group % 4);
        let low_shift = simd.splat_int(quarter as i32 / 2 * 4);
        let high_shift = simd.splat_int(quarter as i32 * 2);
        let scales = &scales.as_flattened()[2 * group..2 * group + 2];
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            let low = simd.bytes(eight(block, half * 64 + quarter % 2 * GROUP + part * LANES));
            let low = simd.and(simd.shift_right_each(low, low_shift), simd.splat_int(15));
            let high = simd.bytes(eight(block, 128 + half * GROUP + part * LANES));
            let high = simd.and(simd.shift_right_each(high, high_shift), simd.splat_int(3));
            let quants = simd.float(simd.or(low, simd.shift_left::<4>(high)));
            *weights = simd.mul(simd.splat(scales[part / 2]), simd.sub(quants, simd.splat(32.0)));
        }
        weights
    }
}

/// The nibbles of a K-block's group: of each 32 bytes, the low halves are one group and the high ones the next.
#[inline(always)]
fn paired_nibbles<S: Simd>(simd: S, block: &[u8], at: usize, group: usize) -> [S::I; 4] {
    let shift = simd.splat_int(group as i32 % 2 * 4);
    let mut quants = [shift; 4];
    for (part, quants) in quants.iter_mut().enumerate() {
        let bytes = simd.bytes(eight(block, at + group / 2 * GROUP + part * LANES));
        *quants = simd.and(simd.shift_right_each(bytes, shift), simd.splat_int(15));
    }
    quants
}

/// The scales of a K-block's groups, and their minima with the sign turned.
#[inline(always)]
fn scales_and_minima<S: Simd>(simd: S, block: &[u8]) -> [[f32; 8]; 2] {
    let (scale, minimum) = simd.splat_halves(four(block, 0));
    let (scales, minima) = unpack_six_bits(block);
    let mut unpacked = [[0.0; 8]; 2];
    simd.store(simd.mul(scale, simd.float(simd.bytes(&scales.to_le_bytes()))), &mut unpacked[0]);
    let minimum = simd.sub(simd.splat(0.0), minimum);
    simd.store(simd.mul(minimum, simd.float(simd.bytes(&minima.to_le_bytes()))), &mut unpacked[1]);
    unpacked
}

/// The 6-bit scales and minima of eight groups, a byte each, from 12 bytes: in the first four are scales 0-3, in the
/// next four minima 0-3, their upper bits being those of scales and minima 4-7, whose lower four bits are the last four.
#[inline(always)]
pub(in crate::matmul) fn unpack_six_bits(block: &[u8]) -> (u64, u64) {
    let word = |at| u64::from(u32::from_le_bytes(*four(block, at)));
    let (first, second, last) = (word(4), word(8), word(12));
    let (low, high) = (0x3f3f_3f3f, 0x0303_0303);
    let scales = (last & 0x0f0f_0f0f) | (first >> 6 & high) << 4;
    let minima = (last >> 4 & 0x0f0f_0f0f) | (second >> 6 & high) << 4;
    ((first & low) | scales << 32, (second & low) | minima << 32)
}

/// The sixteen 6-bit scales of a Q3_K block, a byte each, from the 12 bytes from 96 on: the first eight have the lower
/// four bits, of scales 0-7 in their low halves and of 8-15 in the high ones; the last four have the upper two bits of
/// 0-3 lowest, of 4-7 above them, and so on.
#[inline(always)]
fn unpack_sixteen(block: &[u8]) -> [u64; 2] {
    let lower = u64::from_le_bytes(*eight(block, 96));
    let upper = u64::from(u32::from_le_bytes(*four(block, 104)));
    let (nibbles, pairs) = (0x0f0f_0f0f_0f0f_0f0f, 0x0303_0303);
    let first = (upper & pairs) | (upper >> 2 & pairs) << 32;
    let second = (upper >> 4 & pairs) | (upper >> 6 & pairs) << 32;
    [(lower & nibbles) | first << 4, (lower >> 4 & nibbles) | second << 4]
}

//! Formats without blocks.

use super::Format;
use crate::{
    DType,
    cpu::simd::{LANES, Simd},
};

pub(in crate::matmul) struct F32;
pub(in crate::matmul) struct F16;
pub(in crate::matmul) struct BF16;

impl Format for F32 {
    const DTYPE: DType = DType::F32;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], _: &(), _: usize) -> [S::F; 4] {
        let (bytes, _) = block.as_chunks::<32>();
        let mut weights = [simd.splat(0.0); 4];
        for (weights, bytes) in weights.iter_mut().zip(bytes) {
            let mut lanes = [0.0; LANES];
            for (lane, bytes) in lanes.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *lane = f32::from_le_bytes(*bytes);
            }
            *weights = simd.load(&lanes);
        }
        weights
    }
}

impl Format for F16 {
    const DTYPE: DType = DType::F16;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], _: &(), _: usize) -> [S::F; 4] {
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.halves(&words(block, part * LANES));
        }
        weights
    }
}

impl Format for BF16 {
    const DTYPE: DType = DType::BF16;
    type Header<S: Simd> = ();

    #[inline(always)]
    fn header<S: Simd>(_: S, _: &[u8]) {}

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], _: &(), _: usize) -> [S::F; 4] {
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.bfloats(&words(block, part * LANES));
        }
        weights
    }
}

/// Eight little-endian words, the first being number `at`.
#[inline(always)]
fn words(bytes: &[u8], at: usize) -> [u16; LANES] {
    let (pairs, _) = bytes[2 * at..][..2 * LANES].as_chunks::<2>();
    let mut words = [0; LANES];
    for (word, pair) in words.iter_mut().zip(pairs) {
        *word = u16::from_le_bytes(*pair);
    }
    words
}

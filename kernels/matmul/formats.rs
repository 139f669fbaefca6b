//! The storage formats in vector form: 32 weights of a row at a time, in registers. Their plain meaning, which these
//! match to the bit, is in `dequantize.rs`.

use crate::{
    DType,
    cpu::simd::{LANES, Simd},
};

/// Weights that are decoded together.
pub(super) const GROUP: usize = 32;

/// A storage format.
pub(super) trait Format {
    /// Its name.
    const DTYPE: DType;

    /// Weights `32 · group ..` of a stored row, eight per vector.
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4];

    /// The bytes of the format's block that holds `group`.
    #[inline(always)]
    fn block(row: &[u8], group: usize) -> &[u8] {
        let block = group * GROUP / Self::DTYPE.block_elements();
        &row[block * Self::DTYPE.block_bytes()..][..Self::DTYPE.block_bytes()]
    }
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;
pub(super) struct Q8_0;
pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

impl Format for F32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let (bytes, _) = row[group * 4 * GROUP..][..4 * GROUP].as_chunks::<32>();
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

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.halves(&words(row, group * GROUP + part * LANES));
        }
        weights
    }
}

impl Format for BF16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let mut weights = [simd.splat(0.0); 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.bfloats(&words(row, group * GROUP + part * LANES));
        }
        weights
    }
}

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let block = Self::block(row, group);
        let scale = simd.splat_half(word(block, 0));
        let mut weights = [scale; 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.mul(scale, simd.float(simd.signed_bytes(eight(block, 2 + part * LANES))));
        }
        weights
    }
}

impl Format for Q4_0 {
    const DTYPE: DType = DType::Q4_0;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let block = Self::block(row, group);
        let scale = simd.splat_half(word(block, 0));
        // Exact: a half times a small integer, and their sum, fit in 24 bits.
        let offset = simd.mul(scale, simd.splat(-8.0));
        scaled(simd, nibbles(simd, block, 2), scale, offset)
    }
}

impl Format for Q4_1 {
    const DTYPE: DType = DType::Q4_1;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let block = Self::block(row, group);
        let (scale, minimum) = (simd.splat_half(word(block, 0)), simd.splat_half(word(block, 2)));
        scaled(simd, nibbles(simd, block, 4), scale, minimum)
    }
}

impl Format for Q5_0 {
    const DTYPE: DType = DType::Q5_0;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let block = Self::block(row, group);
        let scale = simd.splat_half(word(block, 0));
        let offset = simd.mul(scale, simd.splat(-16.0));
        let quants = with_fifth_bit(simd, nibbles(simd, block, 6), block, 2);
        scaled(simd, quants, scale, offset)
    }
}

impl Format for Q5_1 {
    const DTYPE: DType = DType::Q5_1;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let block = Self::block(row, group);
        let (scale, minimum) = (simd.splat_half(word(block, 0)), simd.splat_half(word(block, 2)));
        let quants = with_fifth_bit(simd, nibbles(simd, block, 8), block, 4);
        scaled(simd, quants, scale, minimum)
    }
}

impl Format for Q4K {
    const DTYPE: DType = DType::Q4_K;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let (block, group) = (Self::block(row, group), group % 8);
        let (scale, minimum) = scale_and_minimum(simd, block, group);
        scaled(simd, paired_nibbles(simd, block, 16, group), scale, minimum)
    }
}

impl Format for Q5K {
    const DTYPE: DType = DType::Q5_K;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let (block, group) = (Self::block(row, group), group % 8);
        let (scale, minimum) = scale_and_minimum(simd, block, group);
        let mut quants = paired_nibbles(simd, block, 48, group);
        let (shift, one) = (simd.splat_int(group as i32), simd.splat_int(1));
        for (part, quants) in quants.iter_mut().enumerate() {
            let bits = simd.shift_right_each(simd.bytes(eight(block, 16 + part * LANES)), shift);
            *quants = simd.or(*quants, simd.shift_left::<4>(simd.and(bits, one)));
        }
        scaled(simd, quants, scale, minimum)
    }
}

impl Format for Q6K {
    const DTYPE: DType = DType::Q6_K;

    #[inline(always)]
    fn group<S: Simd>(simd: S, row: &[u8], group: usize) -> [S::F; 4] {
        let (block, half, quarter) = (Self::block(row, group), group % 8 / 4, group % 4);
        let scale = simd.splat_half(word(block, 208));
        let low_shift = simd.splat_int(quarter as i32 / 2 * 4);
        let high_shift = simd.splat_int(quarter as i32 * 2);
        let mut weights = [scale; 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            let low = simd.bytes(eight(block, half * 64 + quarter % 2 * GROUP + part * LANES));
            let low = simd.and(simd.shift_right_each(low, low_shift), simd.splat_int(15));
            let high = simd.bytes(eight(block, 128 + half * GROUP + part * LANES));
            let high = simd.and(simd.shift_right_each(high, high_shift), simd.splat_int(3));
            let quants = simd.float(simd.or(low, simd.shift_left::<4>(high)));
            let own_scale = f32::from(block[192 + group % 8 * 2 + part / 2] as i8);
            *weights = simd.mul(simd.mul(scale, simd.splat(own_scale)), simd.sub(quants, simd.splat(32.0)));
        }
        weights
    }
}

/// `scale · quant + offset`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, quants: [S::I; 4], scale: S::F, offset: S::F) -> [S::F; 4] {
    let mut weights = [scale; 4];
    for (weights, quants) in weights.iter_mut().zip(quants) {
        *weights = simd.fma(simd.float(quants), scale, offset);
    }
    weights
}

/// 32 nibbles in 16 bytes from `at` on: first the low halves, then the high ones.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, block: &[u8], at: usize) -> [S::I; 4] {
    let (first, second) = (simd.bytes(eight(block, at)), simd.bytes(eight(block, at + LANES)));
    let mask = simd.splat_int(15);
    [simd.and(first, mask), simd.and(second, mask), simd.shift_right::<4>(first), simd.shift_right::<4>(second)]
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

/// Adds the fifth bits, 32 of them in the four bytes from `at` on.
#[inline(always)]
fn with_fifth_bit<S: Simd>(simd: S, mut quants: [S::I; 4], block: &[u8], at: usize) -> [S::I; 4] {
    let lane = simd.bytes(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let one = simd.splat_int(1);
    for (part, quants) in quants.iter_mut().enumerate() {
        let bits = simd.shift_right_each(simd.splat_int(i32::from(block[at + part])), lane);
        *quants = simd.or(*quants, simd.shift_left::<4>(simd.and(bits, one)));
    }
    quants
}

/// A group's scale, and its minimum with the sign turned, in all lanes.
#[inline(always)]
fn scale_and_minimum<S: Simd>(simd: S, block: &[u8], group: usize) -> (S::F, S::F) {
    let (scale, minimum) = super::dequantize::scale_and_minimum(block, group);
    let scale = simd.mul(simd.splat_half(word(block, 0)), simd.splat(f32::from(scale)));
    let minimum = simd.mul(simd.splat_half(word(block, 2)), simd.splat(-f32::from(minimum)));
    (scale, minimum)
}

#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> &[u8; LANES] {
    bytes[at..at + LANES].try_into().expect("eight bytes")
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
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

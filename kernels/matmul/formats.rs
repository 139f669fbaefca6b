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
    /// Bytes of the blocks that [`Self::group`] is given; a plain format counts a group as a block.
    const BYTES: usize = match Self::DTYPE.block_elements() {
        1 => GROUP * Self::DTYPE.block_bytes(),
        _ => Self::DTYPE.block_bytes(),
    };
    /// Groups of such a block.
    const GROUPS: usize = if Self::DTYPE.block_elements() > GROUP { Self::DTYPE.block_elements() / GROUP } else { 1 };

    /// What all groups of a block need.
    type Header<S: Simd>: Copy;

    /// Decodes it.
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S>;

    /// The weights of one of a block's groups, eight per vector.
    fn group<S: Simd>(simd: S, block: &[u8], header: &Self::Header<S>, group: usize) -> [S::F; 4];
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

impl Format for Q8_0 {
    const DTYPE: DType = DType::Q8_0;
    type Header<S: Simd> = S::F;

    #[inline(always)]
    fn header<S: Simd>(simd: S, block: &[u8]) -> Self::Header<S> {
        simd.splat_halves(four(block, 0)).0
    }

    #[inline(always)]
    fn group<S: Simd>(simd: S, block: &[u8], &scale: &S::F, _: usize) -> [S::F; 4] {
        let mut weights = [scale; 4];
        for (part, weights) in weights.iter_mut().enumerate() {
            *weights = simd.mul(scale, simd.float(simd.signed_bytes(eight(block, 2 + part * LANES))));
        }
        weights
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
fn unpack_six_bits(block: &[u8]) -> (u64, u64) {
    let word = |at| u64::from(u32::from_le_bytes(*four(block, at)));
    let (first, second, last) = (word(4), word(8), word(12));
    let (low, high) = (0x3f3f_3f3f, 0x0303_0303);
    let scales = (last & 0x0f0f_0f0f) | (first >> 6 & high) << 4;
    let minima = (last >> 4 & 0x0f0f_0f0f) | (second >> 6 & high) << 4;
    ((first & low) | scales << 32, (second & low) | minima << 32)
}

#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> &[u8; LANES] {
    bytes[at..at + LANES].try_into().expect("eight bytes")
}

#[inline(always)]
fn four(bytes: &[u8], at: usize) -> &[u8; 4] {
    bytes[at..at + 4].try_into().expect("four bytes")
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

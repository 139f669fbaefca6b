//! The storage formats in vector form: 32 weights of a row at a time, in registers. Their plain meaning, which these
//! match to the bit, is in `dequantize.rs`.

mod own;
mod plain;
mod simple;
mod super_blocks;
mod tables;
mod ternary;

pub(super) use self::{
    own::{F8E4M3, WInt4, WInt4G32, WInt8},
    plain::{BF16, F16, F32},
    simple::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0},
    super_blocks::{Q2K, Q3K, Q4K, Q5K, Q6K, unpack_six_bits},
    tables::{Iq4Nl, Iq4Xs, Mxfp4},
    ternary::{Tq1_0, Tq2_0},
};
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

/// `scale · quant + offset`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, quants: [S::I; 4], scale: S::F, offset: S::F) -> [S::F; 4] {
    let mut weights = [scale; 4];
    for (weights, quants) in weights.iter_mut().zip(quants) {
        *weights = simd.fma(simd.float(quants), scale, offset);
    }
    weights
}

/// `scale · value`.
#[inline(always)]
fn times<S: Simd>(simd: S, scale: S::F, values: [S::F; 4]) -> [S::F; 4] {
    let mut weights = values;
    for weights in &mut weights {
        *weights = simd.mul(scale, *weights);
    }
    weights
}

/// 32 signed bytes from `at` on.
#[inline(always)]
fn signed<S: Simd>(simd: S, block: &[u8], at: usize) -> [S::F; 4] {
    let mut values = [simd.splat(0.0); 4];
    for (part, values) in values.iter_mut().enumerate() {
        *values = simd.float(simd.signed_bytes(eight(block, at + part * LANES)));
    }
    values
}

/// 32 nibbles in 16 bytes from `at` on: first the low halves, then the high ones.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, block: &[u8], at: usize) -> [S::I; 4] {
    let (first, second) = (simd.bytes(eight(block, at)), simd.bytes(eight(block, at + LANES)));
    let mask = simd.splat_int(15);
    [simd.and(first, mask), simd.and(second, mask), simd.shift_right::<4>(first), simd.shift_right::<4>(second)]
}

/// Two bits each from the 64 bytes from `at` on: of each 32 bytes, the lowest two bits are one group, those above the
/// next.
#[inline(always)]
fn two_bits<S: Simd>(simd: S, block: &[u8], at: usize, group: usize) -> [S::I; 4] {
    let shift = simd.splat_int(group as i32 % 4 * 2);
    let mut quants = [shift; 4];
    for (part, quants) in quants.iter_mut().enumerate() {
        let bytes = simd.bytes(eight(block, at + group / 4 * GROUP + part * LANES));
        *quants = simd.and(simd.shift_right_each(bytes, shift), simd.splat_int(3));
    }
    quants
}

#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> &[u8; LANES] {
    bytes[at..at + LANES].try_into().expect("eight bytes")
}

#[inline(always)]
fn four(bytes: &[u8], at: usize) -> &[u8; 4] {
    bytes[at..at + 4].try_into().expect("four bytes")
}

//! How eight outputs' weights lie side by side, by storage format.
//!
//! A *span* is what has a scale in common, 32 inputs or more, of eight outputs: their heads, then their quants group by
//! group. A group's quants are eight quads of neighbouring inputs, in the order of the inputs: for each output the four
//! bytes, without a sign, that [`Simd::dot_quads`] multiplies. As nibbles, two quads share the bytes of one vector.

use super::{GROUP, OCTET};
use crate::cpu::simd::{LANES, Simd};

/// What a byte's sign is worth, once it counts as a part of its value.
const SIGN: u8 = 128;

/// A storage format, rearranged.
pub(super) trait Layout {
    /// Groups of a span.
    const SPAN: usize = 1;
    /// Bytes of a span as one output has it stored.
    const STORED: usize;
    /// Bytes of a span's heads.
    const HEADS: usize;
    /// Whether quants are nibbles; else they are bytes, stored with a sign.
    const NIBBLES: bool;
    /// What is to be subtracted of each quant.
    const ZERO: i32 = if Self::NIBBLES { 0 } else { SIGN as i32 };
    /// Whether weights have an offset of their own.
    const OFFSETS: bool = false;

    /// Bytes of a group's quants.
    const QUANTS: usize = OCTET * if Self::NIBBLES { GROUP / 2 } else { GROUP };
    /// Bytes of a span.
    const BYTES: usize = Self::HEADS + Self::SPAN * Self::QUANTS;

    /// Writes the heads of a span: a scale in half precision that each output has stored first, unless a format differs.
    fn pack_heads(stored: [&[u8]; OCTET], heads: &mut [u8]) {
        copy_heads::<2>(stored, 0, heads);
    }

    /// One output's quants of a group, as they are stored.
    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP];

    /// Scale and offset of the outputs.
    #[inline(always)]
    fn head<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
        (halves(simd, span, 0), simd.splat(0.0))
    }

    /// Rearranges what eight outputs have stored of a span.
    fn pack(stored: [&[u8]; OCTET], span: &mut [u8]) {
        let (heads, quants) = span.split_at_mut(Self::HEADS);
        Self::pack_heads(stored, heads);
        for (group, to) in quants.chunks_exact_mut(Self::QUANTS).enumerate() {
            for (lane, stored) in stored.into_iter().enumerate() {
                let quants = Self::stored_quants(stored, group);
                if Self::NIBBLES {
                    for (vector, eight) in quants.as_chunks::<8>().0.iter().enumerate() {
                        let bytes: [u8; 4] = std::array::from_fn(|at| eight[at] | eight[at + 4] << 4);
                        to[(vector * LANES + lane) * 4..][..4].copy_from_slice(&bytes);
                    }
                } else {
                    for (quad, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                        to[(quad * LANES + lane) * 4..][..4].copy_from_slice(&four.map(|byte| byte ^ SIGN));
                    }
                }
            }
        }
    }

    /// Two quads of a group.
    #[inline(always)]
    fn quads<S: Simd>(simd: S, span: &[u8], group: usize, both: usize) -> [S::I; 2] {
        let quants = &span[Self::HEADS + group * Self::QUANTS..][..Self::QUANTS];
        let vector = |at: usize| simd.words(quants[at * 32..][..32].try_into().expect("a vector"));
        if Self::NIBBLES {
            let (words, mask) = (vector(both), simd.splat_int(0x0f0f_0f0f));
            [simd.and(words, mask), simd.and(simd.shift_right::<4>(words), mask)]
        } else {
            [vector(2 * both), vector(2 * both + 1)]
        }
    }
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q8_0;
pub(super) struct WInt8;
pub(super) struct WInt4;
pub(super) struct WInt4G32;

impl Layout for Q4_0 {
    const STORED: usize = 18;
    const HEADS: usize = 2 * OCTET;
    const NIBBLES: bool = true;
    const ZERO: i32 = 8;

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[2..])
    }
}

impl Layout for Q4_1 {
    const STORED: usize = 20;
    const HEADS: usize = 4 * OCTET;
    const NIBBLES: bool = true;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; OCTET], heads: &mut [u8]) {
        let (scales, offsets) = heads.split_at_mut(2 * OCTET);
        copy_heads::<2>(stored, 0, scales);
        copy_heads::<2>(stored, 2, offsets);
    }

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[4..])
    }

    #[inline(always)]
    fn head<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
        (halves(simd, span, 0), halves(simd, span, 2 * OCTET))
    }
}

impl Layout for Q8_0 {
    const STORED: usize = 34;
    const HEADS: usize = 2 * OCTET;
    const NIBBLES: bool = false;

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        stored[2..][..GROUP].try_into().expect("a group")
    }
}

impl Layout for WInt8 {
    const SPAN: usize = 4;
    const STORED: usize = 132;
    const HEADS: usize = 4 * OCTET;
    const NIBBLES: bool = false;

    fn pack_heads(stored: [&[u8]; OCTET], heads: &mut [u8]) {
        copy_heads::<4>(stored, 0, heads);
    }

    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        stored[4 + group * GROUP..][..GROUP].try_into().expect("a group")
    }

    #[inline(always)]
    fn head<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
        (simd.bits(simd.words(span[..32].try_into().expect("a vector"))), simd.splat(0.0))
    }
}

impl Layout for WInt4 {
    const SPAN: usize = 4;
    const STORED: usize = 68;
    const HEADS: usize = 3 * OCTET;
    const NIBBLES: bool = true;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; OCTET], heads: &mut [u8]) {
        pack_zero_points(stored, heads);
    }

    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        nibbles(&stored[4 + group * GROUP / 2..])
    }

    #[inline(always)]
    fn head<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
        scale_and_offset(simd, span)
    }
}

impl Layout for WInt4G32 {
    const STORED: usize = 19;
    const HEADS: usize = 3 * OCTET;
    const NIBBLES: bool = true;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; OCTET], heads: &mut [u8]) {
        pack_zero_points(stored, heads);
    }

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[3..])
    }

    #[inline(always)]
    fn head<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
        scale_and_offset(simd, span)
    }
}

/// `N` bytes from `at` on of each output.
fn copy_heads<const N: usize>(stored: [&[u8]; OCTET], at: usize, heads: &mut [u8]) {
    for (stored, to) in stored.into_iter().zip(heads.as_chunks_mut::<N>().0) {
        to.copy_from_slice(&stored[at..at + N]);
    }
}

/// Our own 4-bit formats: half-precision scales, then bytes, the quants that stand for zero.
fn pack_zero_points(stored: [&[u8]; OCTET], heads: &mut [u8]) {
    let (scales, zero_points) = heads.split_at_mut(2 * OCTET);
    copy_heads::<2>(stored, 0, scales);
    copy_heads::<1>(stored, 2, zero_points);
}

/// `scale` and `−scale · zero point`, both exact: a half times an integer up to 16.
#[inline(always)]
fn scale_and_offset<S: Simd>(simd: S, span: &[u8]) -> (S::F, S::F) {
    let scale = halves(simd, span, 0);
    let zero_points = simd.float(simd.bytes(span[2 * OCTET..][..OCTET].try_into().expect("eight bytes")));
    (scale, simd.mul(simd.mul(scale, simd.splat(-1.0)), zero_points))
}

/// Eight half-precision numbers.
#[inline(always)]
fn halves<S: Simd>(simd: S, span: &[u8], at: usize) -> S::F {
    simd.half_bytes(span[at..][..2 * LANES].try_into().expect("eight halves"))
}

/// 32 nibbles of 16 bytes: first the low halves, then the high ones.
fn nibbles(stored: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|at| if at < GROUP / 2 { stored[at] & 15 } else { stored[at - GROUP / 2] >> 4 })
}

/// Evaluates `$body` with `$layout` naming the layout of a [`DType`](crate::DType), or `$other` where it has none.
macro_rules! with_layout {
    ($dtype:expr, $layout:ident => $body:expr, else $other:expr) => {
        with_layout!(among Q4_0, Q4_1, Q8_0, WInt8, WInt4, WInt4G32; $dtype, $layout => $body, else $other)
    };
    (among $($name:ident),+; $dtype:expr, $layout:ident => $body:expr, else $other:expr) => {
        match $dtype {
            $($crate::DType::$name => {
                type $layout = $crate::matmul::cpu::packed::layout::$name;
                $body
            })+
            _ => $other,
        }
    };
}

pub(super) use with_layout;

//! How sixteen outputs' weights lie side by side, by storage format.
//!
//! A *span* is what has a scale in common, 32 inputs or more, of sixteen outputs: their heads, then their quants group by
//! group. A group's quants are eight quads of neighbouring inputs, in the order of the inputs: for each output the four
//! bytes, without a sign, that [`Wide::dot_quads`] multiplies. As nibbles, two quads share the bytes of one vector; of six
//! bits, the lower four are nibbles, and the upper two of four quads share the bytes of another vector.

use super::{GROUP, QUADS, SIDE, rounded::Head};
use crate::{
    cpu::simd::{Simd, Wide},
    matmul::formats::unpack_six_bits,
};

/// A byte's sign: once it counts as a part of its value, that is larger by 128.
const SIGN: u8 = 128;

/// How far ahead of the weights being read others are asked for.
const PREFETCH_BYTES: usize = 2048;

/// Pieces that a group has at most.
pub(super) const MOST_PIECES: usize = 2;

/// Groups that have their scales in common at most; others are a divisor of it.
pub(super) const MOST_SHARED: usize = 4;

/// What the largest of a stretch is as a word: a whole multiple of the largest quant of 6 bits. Products of 576 such and lower
/// bytes fit 32 bits, with room for what rounding adds.
pub(super) const LARGEST_WORD: f32 = 909.0 * 32.0;

/// How quants are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// As nibbles.
    Four,
    /// As nibbles, and two bits more.
    Six,
    /// As bytes, which are stored with a sign.
    Eight,
}

impl Width {
    /// Bits of a quant.
    pub(super) const fn bits(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// What a weight may be off by as a word, relative to the largest near it: half of the largest quant for its factor, and
    /// half a word for an offset. Bytes would be no more exact than bf16, and are none.
    pub(super) const fn rounding_of_words(self) -> Option<f32> {
        match self {
            Self::Four => Some(4.5 / LARGEST_WORD),
            Self::Six => Some(16.0 / LARGEST_WORD),
            Self::Eight => None,
        }
    }

    /// Puts one output's quants among those of the sixteen.
    pub(super) fn put(self, quants: [u8; GROUP], lane: usize, to: &mut [u8]) {
        let mut put = |vector: usize, bytes: [u8; 4]| {
            to[(vector * SIDE + lane) * 4..][..4].copy_from_slice(&bytes);
        };
        if self == Self::Eight {
            quants.as_chunks::<4>().0.iter().enumerate().for_each(|(quad, four)| put(quad, *four));
            return;
        }
        for (vector, eight) in quants.as_chunks::<8>().0.iter().enumerate() {
            put(vector, std::array::from_fn(|at| eight[at] & 15 | eight[at + 4] << 4));
        }
        if self == Self::Six {
            for (vector, sixteen) in quants.as_chunks::<16>().0.iter().enumerate() {
                let upper = |at: usize, quad: usize| (sixteen[4 * quad + at] >> 4) << (2 * quad);
                put(QUADS / 2 + vector, std::array::from_fn(|at| (0..4).map(|quad| upper(at, quad)).sum()));
            }
        }
    }

    /// Two quads of a group, whose quants these are.
    #[inline(always)]
    pub(super) fn quads<W: Wide>(self, wide: W, quants: &[u8], both: usize) -> [W::I; 2] {
        let vector = |at: usize| wide.words(quants[at * 4 * SIDE..][..4 * SIDE].try_into().expect("a vector"));
        if self == Self::Eight {
            return [vector(2 * both), vector(2 * both + 1)];
        }
        let (words, mask) = (vector(both), wide.splat_int(0x0f0f_0f0f));
        let [first, second] = [wide.and(words, mask), wide.and(wide.shift_right::<4>(words), mask)];
        if self == Self::Four {
            return [first, second];
        }
        let (words, mask) = (vector(QUADS / 2 + both / 2), wide.splat_int(0x3030_3030));
        let uppers = match both % 2 {
            0 => [wide.shift_left::<4>(words), wide.shift_left::<2>(words)],
            _ => [words, wide.shift_right::<2>(words)],
        };
        [wide.or(first, wide.and(uppers[0], mask)), wide.or(second, wide.and(uppers[1], mask))]
    }
}

/// A storage format, rearranged.
pub(super) trait Layout {
    /// Groups of a span.
    const SPAN: usize = 1;
    /// Scales of a group.
    const PIECES: usize = 1;
    /// Groups that have their scales in common.
    const SHARED: usize = 1;
    /// Bytes of a span as one output has it stored.
    const STORED: usize;
    /// Bytes of a span's heads.
    const HEADS: usize;
    /// How quants are packed.
    const WIDTH: Width;
    /// Whether weights have an offset of their own.
    const OFFSETS: bool = false;
    /// By how much a quant is too large once it has lost its sign: 0, 8, 32 or 128.
    const EXCESS: u8 = 0;

    /// Bytes of a group's quants.
    const QUANTS: usize = SIDE
        * match Self::WIDTH {
            Width::Four => GROUP / 2,
            Width::Six => GROUP / 2 + GROUP / 4,
            Width::Eight => GROUP,
        };
    /// Bytes of a span.
    const BYTES: usize = Self::HEADS + Self::SPAN * Self::QUANTS;

    /// What the sum of a piece's products begins with, where quants have lost their sign.
    #[inline(always)]
    fn start(head: &Head, piece: usize) -> i32 {
        match Self::EXCESS {
            0 => 0,
            8 => head.less_8,
            32 => head.less_32[piece],
            _ => head.less_128,
        }
    }

    /// Writes the heads of a span: a scale in half precision that each output has stored first, unless a format differs.
    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        copy_heads::<2>(stored, 0, heads);
    }

    /// One output's quants of a group, as they are stored.
    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP];

    /// Scale and offset of the outputs for a piece of a group; the pieces of a span are counted on.
    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], _piece: usize) -> (W::F, W::F) {
        (halves(wide, span, 0), wide.splat(0.0))
    }

    /// A chain of sums, and what a piece's sum of products of integers stands for: in one place, for few rows and for many.
    #[inline(always)]
    fn add<W: Wide>(wide: W, chain: W::F, sum: W::I, (scale, offset): (W::F, W::F), head: &Head) -> W::F {
        let step = wide.mul(scale, wide.splat(head.step));
        let chain = wide.fma(wide.float(sum), step, chain);
        if Self::OFFSETS { wide.fma(offset, wide.splat(head.sum), chain) } else { chain }
    }

    /// Rearranges what sixteen outputs have stored of a span.
    fn pack(stored: [&[u8]; SIDE], span: &mut [u8]) {
        let (heads, quants) = span.split_at_mut(Self::HEADS);
        Self::pack_heads(stored, heads);
        // Bytes lose their sign.
        let sign = if Self::WIDTH == Width::Eight { SIGN } else { 0 };
        for (group, to) in quants.chunks_exact_mut(Self::QUANTS).enumerate() {
            for (lane, stored) in stored.into_iter().enumerate() {
                Self::WIDTH.put(Self::stored_quants(stored, group).map(|quant| quant ^ sign), lane, to);
            }
        }
    }

    /// Two quads of a group.
    #[inline(always)]
    fn quads<W: Wide>(wide: W, span: &[u8], group: usize, both: usize) -> [W::I; 2] {
        Self::WIDTH.quads(wide, &span[Self::HEADS + group * Self::QUANTS..][..Self::QUANTS], both)
    }
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q8_0;
#[allow(non_camel_case_types, reason = "as the storage format is called")]
pub(super) struct Q4_K;
#[allow(non_camel_case_types, reason = "as the storage format is called")]
pub(super) struct Q6_K;
pub(super) struct WInt8;
pub(super) struct WInt4;
pub(super) struct WInt4G32;

impl Layout for Q4_0 {
    const STORED: usize = 18;
    const HEADS: usize = 2 * SIDE;
    const WIDTH: Width = Width::Four;
    const EXCESS: u8 = 8;

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[2..])
    }
}

impl Layout for Q4_1 {
    const STORED: usize = 20;
    const HEADS: usize = 4 * SIDE;
    const WIDTH: Width = Width::Four;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        let (scales, offsets) = heads.split_at_mut(2 * SIDE);
        copy_heads::<2>(stored, 0, scales);
        copy_heads::<2>(stored, 2, offsets);
    }

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[4..])
    }

    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], _: usize) -> (W::F, W::F) {
        (halves(wide, span, 0), halves(wide, span, 2 * SIDE))
    }
}

impl Layout for Q8_0 {
    const STORED: usize = 34;
    const HEADS: usize = 2 * SIDE;
    const WIDTH: Width = Width::Eight;
    const EXCESS: u8 = SIGN;

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        stored[2..][..GROUP].try_into().expect("a group")
    }
}

/// Both scales in half precision, then of each group scales and minima, multiples of these in bytes.
impl Layout for Q4_K {
    const SPAN: usize = 8;
    const STORED: usize = 144;
    const HEADS: usize = 4 * SIDE + 8 * 2 * SIDE;
    const WIDTH: Width = Width::Four;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        copy_heads::<2>(stored, 0, &mut heads[..2 * SIDE]);
        copy_heads::<2>(stored, 2, &mut heads[2 * SIDE..4 * SIDE]);
        for (lane, stored) in stored.into_iter().enumerate() {
            let (scales, minima) = unpack_six_bits(stored);
            let pairs = scales.to_le_bytes().into_iter().zip(minima.to_le_bytes());
            for ((scale, minimum), of_group) in pairs.zip(heads[4 * SIDE..].chunks_exact_mut(2 * SIDE)) {
                (of_group[lane], of_group[SIDE + lane]) = (scale, minimum);
            }
        }
    }

    /// Of each 32 bytes the lower halves are one group, and the upper ones the next.
    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        let bytes = &stored[16 + group / 2 * GROUP..][..GROUP];
        std::array::from_fn(|at| bytes[at] >> (group % 2 * 4) & 15)
    }

    /// All exact: halves times six bits.
    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], piece: usize) -> (W::F, W::F) {
        let multiples = |at: usize| {
            let bytes = &span[4 * SIDE + (2 * piece + at) * SIDE..][..SIDE];
            wide.float(wide.bytes(bytes.try_into().expect("sixteen bytes")))
        };
        let minimum = wide.mul(halves(wide, span, 2 * SIDE), multiples(1));
        (wide.mul(halves(wide, span, 0), multiples(0)), wide.sub(wide.splat(0.0), minimum))
    }
}

/// Scales in half precision, then of each 16 inputs multiples of these in bytes.
impl Layout for Q6_K {
    const SPAN: usize = 8;
    const PIECES: usize = 2;
    const STORED: usize = 210;
    const HEADS: usize = 2 * SIDE + 16 * SIDE;
    const WIDTH: Width = Width::Six;
    const EXCESS: u8 = 32;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        let (scales, multiples) = heads.split_at_mut(2 * SIDE);
        copy_heads::<2>(stored, 208, scales);
        for (piece, to) in multiples.chunks_exact_mut(SIDE).enumerate() {
            copy_heads::<1>(stored, 192 + piece, to);
        }
    }

    /// Of 64 bytes the lower halves are two groups, and the upper ones the next two, whose upper bits share 32 bytes.
    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        let (half, quarter) = (group / 4, group % 4);
        let low = &stored[half * 64 + quarter % 2 * GROUP..][..GROUP];
        let high = &stored[128 + half * GROUP..][..GROUP];
        std::array::from_fn(|at| low[at] >> (quarter / 2 * 4) & 15 | (high[at] >> (2 * quarter) & 3) << 4)
    }

    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], piece: usize) -> (W::F, W::F) {
        let multiples = span[(2 + piece) * SIDE..][..SIDE].try_into().expect("sixteen bytes");
        (wide.mul(halves(wide, span, 0), wide.float(wide.signed_bytes(multiples))), wide.splat(0.0))
    }
}

impl Layout for WInt8 {
    const SPAN: usize = 4;
    const SHARED: usize = 4;
    const STORED: usize = 132;
    const HEADS: usize = 4 * SIDE;
    const WIDTH: Width = Width::Eight;
    const EXCESS: u8 = SIGN;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        copy_heads::<4>(stored, 0, heads);
    }

    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        stored[4 + group * GROUP..][..GROUP].try_into().expect("a group")
    }

    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], _: usize) -> (W::F, W::F) {
        (wide.bits(wide.words(span[..4 * SIDE].try_into().expect("a vector"))), wide.splat(0.0))
    }
}

impl Layout for WInt4 {
    const SPAN: usize = 4;
    const SHARED: usize = 4;
    const STORED: usize = 68;
    const HEADS: usize = 3 * SIDE;
    const WIDTH: Width = Width::Four;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        pack_zero_points(stored, heads);
    }

    fn stored_quants(stored: &[u8], group: usize) -> [u8; GROUP] {
        nibbles(&stored[4 + group * GROUP / 2..])
    }

    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], _: usize) -> (W::F, W::F) {
        scale_and_offset(wide, span)
    }
}

impl Layout for WInt4G32 {
    const STORED: usize = 19;
    const HEADS: usize = 3 * SIDE;
    const WIDTH: Width = Width::Four;
    const OFFSETS: bool = true;

    fn pack_heads(stored: [&[u8]; SIDE], heads: &mut [u8]) {
        pack_zero_points(stored, heads);
    }

    fn stored_quants(stored: &[u8], _: usize) -> [u8; GROUP] {
        nibbles(&stored[3..])
    }

    #[inline(always)]
    fn head<W: Wide>(wide: W, span: &[u8], _: usize) -> (W::F, W::F) {
        scale_and_offset(wide, span)
    }
}

/// Asks for as many bytes of weights as the span's group `part` has, some way behind it.
#[inline(always)]
pub(super) fn ask_ahead<S: Simd, L: Layout>(simd: S, span: &[u8], part: usize) {
    let bytes = L::BYTES / L::SPAN;
    for line in (part * bytes..(part + 1) * bytes).step_by(64) {
        simd.prefetch(span.as_ptr().wrapping_add(PREFETCH_BYTES + line));
    }
}

/// `N` bytes from `at` on of each output.
fn copy_heads<const N: usize>(stored: [&[u8]; SIDE], at: usize, heads: &mut [u8]) {
    for (stored, to) in stored.into_iter().zip(heads.as_chunks_mut::<N>().0) {
        to.copy_from_slice(&stored[at..at + N]);
    }
}

/// Our own 4-bit formats: half-precision scales, then bytes, the quants that stand for zero.
fn pack_zero_points(stored: [&[u8]; SIDE], heads: &mut [u8]) {
    let (scales, zero_points) = heads.split_at_mut(2 * SIDE);
    copy_heads::<2>(stored, 0, scales);
    copy_heads::<1>(stored, 2, zero_points);
}

/// `scale` and `−scale · zero point`, both exact: a half times an integer up to 16.
#[inline(always)]
fn scale_and_offset<W: Wide>(wide: W, span: &[u8]) -> (W::F, W::F) {
    let scale = halves(wide, span, 0);
    let zero_points = wide.float(wide.bytes(span[2 * SIDE..][..SIDE].try_into().expect("sixteen bytes")));
    (scale, wide.mul(wide.mul(scale, wide.splat(-1.0)), zero_points))
}

/// Sixteen half-precision numbers.
#[inline(always)]
fn halves<W: Wide>(wide: W, span: &[u8], at: usize) -> W::F {
    wide.half_bytes(span[at..][..2 * SIDE].try_into().expect("sixteen halves"))
}

/// 32 nibbles of 16 bytes: first the low halves, then the high ones.
fn nibbles(stored: &[u8]) -> [u8; GROUP] {
    std::array::from_fn(|at| if at < GROUP / 2 { stored[at] & 15 } else { stored[at - GROUP / 2] >> 4 })
}

/// Evaluates `$body` with `$layout` naming the layout of a [`DType`](crate::DType), or `$other` where it has none.
macro_rules! with_layout {
    ($dtype:expr, $layout:ident => $body:expr, else $other:expr) => {
        with_layout!(among Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, WInt8, WInt4, WInt4G32; $dtype, $layout => $body, else $other)
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

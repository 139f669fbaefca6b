//! Keys and values of all layers, block by block.

use half::{bf16, f16};

use super::{
    Instructions,
    lasting::{Lasting, Source},
    simd::{LANES, Simd, Wide, e4m3},
};
use crate::{KvDType, KvShape, Result, matmul::encode_e4m3};

/// The KV cache of one rank. A (layer, block, KV head) holds its keys as `[head_dim][slots]`, so that the scores of
/// neighbouring slots are neighbouring lanes, and its values as `[slots][head_dim]`, so that the elements of their
/// weighted sum are. Where values lie within keys, both are the rows `[slots][head_dim]`. What is neighbouring is padded
/// to a multiple of eight. [`Planes`] says how 16-bit integers lie.
pub struct KvCache {
    shape: KvShape,
    pub(crate) keys: Elements,
    /// None where values lie within keys.
    pub(crate) values: Elements,
    /// What keys, and values, are multiplied by, `[tiles][padded_slots]`; none where the format has no scales.
    pub(crate) scales: [Lasting<f32>; 2],
}

/// Elements in their storage format; the 16-bit ones as their bits.
pub(crate) enum Elements {
    /// IEEE binary32.
    F32(Lasting<f32>),
    /// IEEE binary16.
    F16(Lasting<u16>),
    /// bfloat16.
    BF16(Lasting<u16>),
    /// The bytes of 16-bit integers, to be scaled.
    Int16(Lasting<u8>),
    /// Integers, to be scaled.
    Int8(Lasting<i8>),
    /// FP8 (e4m3), as their codes.
    F8E4M3(Lasting<u8>),
}

impl KvCache {
    /// A cache of zeros; or, where `source` is a file that held the cache of this shape before, the same again.
    pub(crate) fn new(shape: KvShape, mut source: Source) -> Result<Self> {
        let keys = Elements::take(&shape, shape.key_tile(), &mut source)?;
        let values = Elements::take(&shape, shape.value_tile(), &mut source)?;
        let has_scales = matches!(shape.dtype, KvDType::Int16 | KvDType::Int8);
        let scales = if has_scales { elements(&shape, shape.padded_slots()) } else { 0 };
        Ok(Self { keys, values, scales: [source.take(scales)?, source.take(scales)?], shape })
    }

    /// What it was made for.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Which of the cache's tiles a (layer, block, KV head) is; its elements begin at as many times
    /// [`KvShape::key_tile`] in `keys`, and [`KvShape::value_tile`] in `values`.
    pub(crate) fn tile(&self, layer: usize, block: usize, head: usize) -> usize {
        let shape = &self.shape;
        assert!(layer < shape.layers && block < shape.blocks && head < shape.kv_heads, "outside of the KV cache");
        (layer * shape.blocks + block) * shape.kv_heads + head
    }
}

impl KvShape {
    /// Whether the CPU can keep 16-bit integers of this shape: values have rows of their own, and sums of products over a
    /// head, or over a block, have 32 bits.
    pub fn takes_int16(&self) -> bool {
        self.values_from.is_none() && self.head_dim <= LARGEST_HEAD && self.block_size <= LARGEST_BLOCK
    }

    /// The format that this machine's CPU is fastest with, of those of two bytes: integers where it has tiles.
    pub fn fastest_on_cpu(&self) -> KvDType {
        match Instructions::Best.isa().has_tiles() && self.takes_int16() {
            true => KvDType::Int16,
            false => KvDType::F16,
        }
    }

    /// Slots of a block with their padding.
    pub(crate) fn padded_slots(&self) -> usize {
        self.block_size.next_multiple_of(if self.dtype == KvDType::Int16 { 2 * LANES } else { LANES })
    }

    /// Elements of a key with their padding.
    pub(crate) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(if self.dtype == KvDType::Int16 { 4 * LANES } else { LANES })
    }

    /// How a tile's 16-bit integers lie.
    pub(crate) fn planes(&self) -> Planes {
        Planes { slots: self.padded_slots(), dim: self.padded_dim() }
    }

    /// Elements of a value with their padding.
    pub(crate) fn padded_value_dim(&self) -> usize {
        self.padded_dim() - self.values_from.unwrap_or(0)
    }

    /// Elements of a tile's keys, `[head_dim][padded_slots]`; of rows that hold values too, `[block_size][padded_dim]`. Of
    /// 16-bit integers, bytes.
    pub(crate) fn key_tile(&self) -> usize {
        match self.values_from {
            None if self.dtype == KvDType::Int16 => 2 * self.planes().bytes(),
            None => self.head_dim * self.padded_slots(),
            Some(_) => self.block_size * self.padded_dim(),
        }
    }

    /// Elements of a tile's values, `[block_size][padded_dim]`; of 16-bit integers, bytes.
    pub(crate) fn value_tile(&self) -> usize {
        match self.values_from {
            None if self.dtype == KvDType::Int16 => 2 * self.planes().bytes(),
            None => self.block_size * self.padded_dim(),
            Some(_) => 0,
        }
    }
}

/// The bytes of a tile's 16-bit integers, `256 · upper + lower`, in two planes: all upper bytes, then all lower ones, with
/// a sign each. Fours of what a product sums over are neighbours: of keys elements, `[dim / 4][slots][4]`, of values slots,
/// `[slots / 4][dim][4]`. Keys' bytes are larger by 128, so that they have no sign, as products want it of one factor.
#[derive(Clone, Copy)]
pub(crate) struct Planes {
    /// Slots, with their padding.
    pub(crate) slots: usize,
    /// Elements of a row, with their padding: zeros.
    pub(crate) dim: usize,
}

/// The largest 16-bit integer, `256 · 127 + 127`: both bytes have a sign.
pub(crate) const LARGEST_SHORT: f32 = 32639.0;
/// The largest head of such integers, and the largest block: 512 · 32767 · 32639 / 256 has 31 bits.
pub(crate) const LARGEST_HEAD: usize = 256;
const LARGEST_BLOCK: usize = 512;
/// By how much keys' bytes are larger.
pub(crate) const KEY_EXCESS: u8 = 128;

impl Planes {
    /// Bytes of a plane.
    pub(crate) fn bytes(self) -> usize {
        self.slots * self.dim
    }

    /// Where in a plane of keys four elements from `dim` on, a multiple of four, are.
    #[inline(always)]
    pub(crate) fn key(self, dim: usize, slot: usize) -> usize {
        dim * self.slots + 4 * slot
    }

    /// Where in a plane of values an element is.
    #[inline(always)]
    pub(crate) fn value(self, slot: usize, dim: usize) -> usize {
        (slot / 4 * self.dim + dim) * 4 + slot % 4
    }
}

impl Elements {
    fn take(shape: &KvShape, tile: usize, source: &mut Source) -> Result<Self> {
        let elements = elements(shape, tile);
        Ok(match shape.dtype {
            KvDType::F32 => Elements::F32(source.take(elements)?),
            KvDType::F16 => Elements::F16(source.take(elements)?),
            KvDType::BF16 => Elements::BF16(source.take(elements)?),
            KvDType::Int16 => Elements::Int16(source.take(elements)?),
            KvDType::Int8 => Elements::Int8(source.take(elements)?),
            KvDType::F8E4M3 => Elements::F8E4M3(source.take(elements)?),
        })
    }
}

/// Elements of all tiles, each of `tile` elements.
fn elements(shape: &KvShape, tile: usize) -> usize {
    let factors = [shape.layers, shape.blocks, shape.kv_heads, tile];
    factors.into_iter().try_fold(1usize, usize::checked_mul).unwrap_or(usize::MAX)
}

/// The greatest absolute value of a row, by lanes.
pub(crate) fn greatest(row: &[f32]) -> f32 {
    let (eights, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for eight in eights {
        for (lane, value) in lanes.iter_mut().zip(eight) {
            *lane = lane.max(value.abs());
        }
    }
    lanes.iter().chain(rest).fold(0.0, |greatest, value| greatest.max(value.abs()))
}

/// How the elements of a cache are read and written.
pub(crate) trait KvFormat {
    /// An element as stored.
    type Bits: Copy + Send + Sync;

    /// The greatest stored number, where rows are stored as multiples of a scale of their own.
    const GREATEST: Option<f32> = None;

    /// Eight of them.
    fn load<S: Simd>(simd: S, from: &[Self::Bits; LANES]) -> S::F;

    /// Sixteen of them.
    #[inline(always)]
    fn load_wide<S: Simd>(simd: S, from: &[Self::Bits; 2 * LANES]) -> <S::Wide as Wide>::F {
        let [lower, upper] = from.as_chunks().0 else { unreachable!("two halves") };
        simd.wide().join([Self::load(simd, lower), Self::load(simd, upper)])
    }

    /// A number rounded to an element.
    fn round(value: f32) -> Self::Bits;

    /// What a row's elements are multiples of: 1 where the format has no scales, and for a row of zeros.
    #[inline]
    fn scale(row: &[f32]) -> f32 {
        let greatest = greatest(row);
        Self::GREATEST.map_or(1.0, |most| if greatest > 0.0 { greatest / most } else { 1.0 })
    }
}

/// [`Elements::F32`].
pub(crate) struct KvF32;
/// [`Elements::F16`].
pub(crate) struct KvF16;
/// [`Elements::BF16`].
pub(crate) struct KvBF16;
/// [`Elements::Int8`].
pub(crate) struct KvInt8;
/// [`Elements::F8E4M3`].
pub(crate) struct KvF8E4M3;

impl KvFormat for KvF32 {
    type Bits = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f32; LANES]) -> S::F {
        simd.load(from)
    }

    #[inline(always)]
    fn load_wide<S: Simd>(simd: S, from: &[f32; 2 * LANES]) -> <S::Wide as Wide>::F {
        simd.wide().load(from)
    }

    fn round(value: f32) -> f32 {
        value
    }
}

impl KvFormat for KvF16 {
    type Bits = u16;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u16; LANES]) -> S::F {
        simd.halves(from)
    }

    /// What is beyond its range becomes its greatest: an infinite key would leave nothing to be weighed.
    fn round(value: f32) -> u16 {
        f16::from_f32(value.clamp(-f16::MAX.to_f32_const(), f16::MAX.to_f32_const())).to_bits()
    }
}

impl KvFormat for KvBF16 {
    type Bits = u16;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u16; LANES]) -> S::F {
        simd.bfloats(from)
    }

    fn round(value: f32) -> u16 {
        bf16::from_f32(value).to_bits()
    }
}

impl KvFormat for KvInt8 {
    type Bits = i8;

    const GREATEST: Option<f32> = Some(127.0);

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[i8; LANES]) -> S::F {
        simd.float(simd.signed_bytes(&from.map(|byte| byte as u8)))
    }

    fn round(value: f32) -> i8 {
        value.round_ties_even() as i8
    }
}

impl KvFormat for KvF8E4M3 {
    type Bits = u8;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[u8; LANES]) -> S::F {
        e4m3(simd, from)
    }

    fn round(value: f32) -> u8 {
        encode_e4m3(value)
    }
}

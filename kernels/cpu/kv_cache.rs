//! Keys and values of all layers, block by block.

use half::{bf16, f16};

use super::{
    pages::ask_for_large,
    simd::{LANES, Simd, e4m3},
};
use crate::{DeviceError, KvDType, KvShape, Result, matmul::encode_e4m3};

/// The KV cache of one rank. A (layer, block, KV head) holds its keys as `[head_dim][slots]`, so that the scores of
/// neighbouring slots are neighbouring lanes, and its values as `[slots][head_dim]`, so that the elements of their
/// weighted sum are. Where values lie within keys, both are the rows `[slots][head_dim]`. What is neighbouring is padded
/// to a multiple of eight.
pub struct KvCache {
    shape: KvShape,
    pub(crate) keys: Elements,
    /// None where values lie within keys.
    pub(crate) values: Elements,
    /// What keys, and values, are multiplied by, `[tiles][padded_slots]`; none where the format has no scales.
    pub(crate) scales: [Vec<f32>; 2],
}

/// Elements in their storage format; the 16-bit ones as their bits.
pub(crate) enum Elements {
    /// IEEE binary32.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<u16>),
    /// bfloat16.
    BF16(Vec<u16>),
    /// Integers, to be scaled.
    Int8(Vec<i8>),
    /// FP8 (e4m3), as their codes.
    F8E4M3(Vec<u8>),
}

impl KvCache {
    /// A zeroed cache.
    pub(crate) fn new(shape: KvShape) -> Result<Self> {
        let scales = || match shape.dtype {
            KvDType::Int8 => zeros(elements(&shape, shape.padded_slots())),
            _ => Ok(Vec::new()),
        };
        Ok(Self {
            keys: Elements::zeroed(&shape, shape.key_tile())?,
            values: Elements::zeroed(&shape, shape.value_tile())?,
            scales: [scales()?, scales()?],
            shape,
        })
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
    /// Slots of a block with their padding.
    pub(crate) fn padded_slots(&self) -> usize {
        self.block_size.next_multiple_of(LANES)
    }

    /// Elements of a key with their padding.
    pub(crate) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Elements of a value with their padding.
    pub(crate) fn padded_value_dim(&self) -> usize {
        self.padded_dim() - self.values_from.unwrap_or(0)
    }

    /// Elements of a tile's keys, `[head_dim][padded_slots]`; of rows that hold values too, `[block_size][padded_dim]`.
    pub(crate) fn key_tile(&self) -> usize {
        match self.values_from {
            None => self.head_dim * self.padded_slots(),
            Some(_) => self.block_size * self.padded_dim(),
        }
    }

    /// Elements of a tile's values, `[block_size][padded_dim]`.
    pub(crate) fn value_tile(&self) -> usize {
        if self.values_from.is_none() { self.block_size * self.padded_dim() } else { 0 }
    }
}

impl Elements {
    fn zeroed(shape: &KvShape, tile: usize) -> Result<Self> {
        let elements = elements(shape, tile);
        Ok(match shape.dtype {
            KvDType::F32 => Elements::F32(zeros(elements)?),
            KvDType::F16 => Elements::F16(zeros(elements)?),
            KvDType::BF16 => Elements::BF16(zeros(elements)?),
            KvDType::Int8 => Elements::Int8(zeros(elements)?),
            KvDType::F8E4M3 => Elements::F8E4M3(zeros(elements)?),
        })
    }
}

/// Elements of all tiles, each of `tile` elements.
fn elements(shape: &KvShape, tile: usize) -> usize {
    let factors = [shape.layers, shape.blocks, shape.kv_heads, tile];
    factors.into_iter().try_fold(1usize, usize::checked_mul).unwrap_or(usize::MAX)
}

/// Zeros, or an error where `vec!` would abort. `vec!` itself takes untouched pages, which cost nothing until used.
fn zeros<T: Zero>(elements: usize) -> Result<Vec<T>> {
    let refused = |_| DeviceError::OutOfMemory {
        device: "cpu".into(),
        bytes: elements.saturating_mul(size_of::<T>()),
        purpose: "the KV cache".into(),
    };
    Vec::<T>::new().try_reserve_exact(elements).map_err(refused)?;
    let mut zeros = T::zeros(elements);
    // Blocks of a sequence lie anywhere: with small pages each costs a walk through the tables of pages.
    ask_for_large(&mut zeros);
    Ok(zeros)
}

/// Numbers for which `vec![0; n]` asks the system for zeroed pages.
trait Zero: Sized {
    fn zeros(count: usize) -> Vec<Self>;
}

impl Zero for f32 {
    fn zeros(count: usize) -> Vec<f32> {
        vec![0.0; count]
    }
}

impl Zero for u16 {
    fn zeros(count: usize) -> Vec<u16> {
        vec![0; count]
    }
}

impl Zero for u8 {
    fn zeros(count: usize) -> Vec<u8> {
        vec![0; count]
    }
}

impl Zero for i8 {
    fn zeros(count: usize) -> Vec<i8> {
        vec![0; count]
    }
}

/// How the elements of a cache are read and written.
pub(crate) trait KvFormat {
    /// An element as stored.
    type Bits: Copy + Send + Sync;

    /// The greatest stored number, where rows are stored as multiples of a scale of their own.
    const GREATEST: Option<f32> = None;

    /// Eight of them.
    fn load<S: Simd>(simd: S, from: &[Self::Bits; LANES]) -> S::F;

    /// A number rounded to an element.
    fn round(value: f32) -> Self::Bits;

    /// What a row's elements are multiples of: 1 where the format has no scales, and for a row of zeros.
    #[inline]
    fn scale(row: &[f32]) -> f32 {
        let greatest = row.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
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

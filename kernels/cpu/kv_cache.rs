//! Keys and values of all layers, block by block.

use crate::{DeviceError, KvDType, KvShape, Result};

/// The KV cache of one rank. A (layer, block, KV head) holds its keys as `[head_dim][slots]`, so that the scores of
/// neighbouring slots are neighbouring lanes, and its values as `[slots][head_dim]`, so that a weighted sum of them is.
/// Slots are padded to a multiple of [`KvCache::LANES`].
pub struct KvCache {
    shape: KvShape,
    pub(crate) keys: Elements,
    pub(crate) values: Elements,
}

/// Elements in their storage format; the 16-bit ones as their bits.
pub(crate) enum Elements {
    /// IEEE binary32.
    F32(Vec<f32>),
    /// IEEE binary16.
    F16(Vec<u16>),
    /// bfloat16.
    BF16(Vec<u16>),
}

impl KvCache {
    /// Slots that one vector of scores covers.
    pub(crate) const LANES: usize = 8;

    /// A zeroed cache.
    pub(crate) fn new(shape: KvShape) -> Result<Self> {
        Ok(Self { shape, keys: Elements::zeroed(&shape)?, values: Elements::zeroed(&shape)? })
    }

    /// What it was made for.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Where the elements of a (layer, block, KV head) begin, in `keys` and in `values`.
    pub(crate) fn tile(&self, layer: usize, block: usize, head: usize) -> usize {
        let shape = &self.shape;
        assert!(layer < shape.layers && block < shape.blocks && head < shape.kv_heads, "outside of the KV cache");
        ((layer * shape.blocks + block) * shape.kv_heads + head) * self.tile_elements()
    }

    /// Elements of a (layer, block, KV head), in `keys` as in `values`.
    pub(crate) fn tile_elements(&self) -> usize {
        self.padded_slots() * self.shape.head_dim
    }

    /// Slots of a block with their padding.
    pub(crate) fn padded_slots(&self) -> usize {
        self.shape.block_size.next_multiple_of(Self::LANES)
    }
}

impl Elements {
    fn zeroed(shape: &KvShape) -> Result<Self> {
        let slots = shape.block_size.next_multiple_of(KvCache::LANES);
        let factors = [shape.layers, shape.blocks, shape.kv_heads, slots, shape.head_dim];
        let elements = factors.into_iter().try_fold(1usize, usize::checked_mul).unwrap_or(usize::MAX);
        Ok(match shape.dtype {
            KvDType::F32 => Elements::F32(zeros(elements)?),
            KvDType::F16 => Elements::F16(zeros(elements)?),
            KvDType::BF16 => Elements::BF16(zeros(elements)?),
        })
    }
}

/// Zeros, or an error where `vec!` would abort. `vec!` itself takes untouched pages, which cost nothing until used.
fn zeros<T: Clone + Default + Zero>(elements: usize) -> Result<Vec<T>> {
    let refused = |_| DeviceError::OutOfMemory {
        device: "cpu".into(),
        bytes: elements.saturating_mul(size_of::<T>()),
        purpose: "the KV cache".into(),
    };
    Vec::<T>::new().try_reserve_exact(elements).map_err(refused)?;
    Ok(T::zeros(elements))
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

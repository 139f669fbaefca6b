//! Keys and values of all layers.

use super::driver::{Driver, Pointer};
use super::region::Region;
use crate::{DType, KvDType, KvShape, Result};

/// Keys and values of all layers. Keys are `[layers][blocks][KV heads][slots][head_dim]`, and values likewise, unless
/// they lie within keys. Scales of int8 are `f32 [layers][blocks][KV heads][slots]`.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) keys: Region,
    pub(crate) values: Option<Region>,
    pub(crate) key_scales: Option<Region>,
    pub(crate) value_scales: Option<Region>,
}

impl KvCache {
    pub(crate) fn new(driver: &Driver, shape: KvShape) -> Result<Self> {
        let rows = shape.layers * shape.blocks * shape.block_size * shape.kv_heads;
        assert!(rows / shape.layers.max(1) <= i32::MAX as usize, "kernels count a layer's rows with 31 bits");
        let region = |bytes: usize| Region::zeroed(driver, bytes, "the KV cache");
        let has_scales = shape.dtype.row_bytes(0) > 0;
        let row_bytes = shape.dtype.row_bytes(shape.head_dim) - shape.dtype.row_bytes(0);
        let own_values = shape.values_from.is_none();
        let scales = |wanted: bool| wanted.then(|| region(rows * size_of::<f32>())).transpose();
        Ok(Self {
            shape,
            keys: region(rows * row_bytes)?,
            values: own_values.then(|| region(rows * row_bytes)).transpose()?,
            key_scales: scales(has_scales)?,
            value_scales: scales(has_scales && own_values)?,
        })
    }

    /// Where a layer's rows begin.
    pub(crate) fn layer(&self, layer: usize) -> KvLayer {
        let KvShape { layers, blocks, block_size, kv_heads, head_dim, values_from, .. } = self.shape;
        assert!(layer < layers, "outside of the KV cache");
        let first_row = layer * blocks * kv_heads * block_size;
        let element_bytes = self.element_bytes();
        let elements = |region: &Region| region.pointer().offset(first_row * head_dim * element_bytes);
        let scales = |region: &Option<Region>| {
            region.as_ref().map(|region| region.pointer().offset(first_row * size_of::<f32>()))
        };
        let within_keys = values_from.unwrap_or(0) * element_bytes;
        KvLayer {
            keys: elements(&self.keys),
            values: self.values.as_ref().map_or(elements(&self.keys).offset(within_keys), elements),
            key_scales: scales(&self.key_scales),
            value_scales: scales(if values_from.is_some() { &self.key_scales } else { &self.value_scales }),
        }
    }

    /// Bytes of an element of a key or value.
    pub(crate) fn element_bytes(&self) -> usize {
        self.shape.dtype.row_bytes(1) - self.shape.dtype.row_bytes(0)
    }

    /// The cache's storage format under the name of the weights that are stored alike: for these, kernels are compiled.
    pub(crate) fn format(&self) -> DType {
        match self.shape.dtype {
            KvDType::F32 => DType::F32,
            KvDType::F16 => DType::F16,
            KvDType::BF16 => DType::BF16,
            KvDType::Int8 => DType::WInt8,
            KvDType::F8E4M3 => DType::F8_E4M3,
        }
    }
}

/// One layer of a KV cache: rows of `head_dim` elements for each block, KV head and slot. Values that lie within keys
/// begin at their first element and are as far apart as the keys.
pub(crate) struct KvLayer {
    pub(crate) keys: Pointer,
    pub(crate) values: Pointer,
    pub(crate) key_scales: Option<Pointer>,
    pub(crate) value_scales: Option<Pointer>,
}

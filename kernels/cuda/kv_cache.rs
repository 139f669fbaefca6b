//! Keys and values of all layers.

use super::driver::{Driver, Pointer};
use super::region::Region;
use super::tensor_map::{Matrix, TensorMap};
use crate::{DType, DeviceError, KvDType, KvShape, Result};

/// Keys and values of all layers. Keys are `[layers][blocks][KV heads][slots][head_dim]`, and values likewise, unless
/// they lie within keys. Scales of int8 are `f32 [layers][blocks][KV heads][slots]`.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) keys: Region,
    pub(crate) values: Option<Region>,
    pub(crate) key_scales: Option<Region>,
    pub(crate) value_scales: Option<Region>,
    /// Of each layer; of none where rows don't come in boxes.
    boxes: Vec<KvBoxes>,
}

impl KvCache {
    pub(crate) fn new(driver: &Driver, shape: KvShape) -> Result<Self> {
        let rows = shape.layers * shape.blocks * shape.block_size * shape.kv_heads;
        assert!(rows / shape.layers.max(1) <= i32::MAX as usize, "kernels count a layer's rows with 31 bits");
        let region = |bytes: usize| Region::zeroed(driver, bytes, "the KV cache");
        if shape.dtype == KvDType::Int16 {
            return Err(DeviceError::Unsupported("keys and values in 16-bit integers".into()));
        }
        let has_scales = shape.dtype.row_bytes(0) > 0;
        let row_bytes = shape.dtype.row_bytes(shape.head_dim) - shape.dtype.row_bytes(0);
        let own_values = shape.values_from.is_none();
        let scales = |wanted: bool| wanted.then(|| region(rows * size_of::<f32>())).transpose();
        let mut cache = Self {
            shape,
            keys: region(rows * row_bytes)?,
            values: own_values.then(|| region(rows * row_bytes)).transpose()?,
            key_scales: scales(has_scales)?,
            value_scales: scales(has_scales && own_values)?,
            boxes: Vec::new(),
        };
        if let Some(box_rows) = box_rows(driver.facts().capability, &shape) {
            let of_layers = (0..shape.layers).map(|layer| KvBoxes::new(&shape, &cache.layer(layer), box_rows));
            cache.boxes = of_layers.collect::<Result<_>>()?;
        }
        Ok(cache)
    }

    /// How a layer's rows are copied in boxes, where they can be.
    pub(crate) fn boxes(&self, layer: usize) -> Option<&KvBoxes> {
        self.boxes.get(layer)
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
            KvDType::Int16 => unreachable!("refused when a cache is made"),
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

/// One layer's keys and values as matrices whose rows are copied in boxes: as `Boxes` in attention/prefill_90a/cuda.cu.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct KvBoxes {
    keys: TensorMap,
    values: TensorMap,
    /// Slots of a box, all of one KV block.
    rows: i32,
}

impl KvBoxes {
    fn new(shape: &KvShape, layer: &KvLayer, box_rows: usize) -> Result<Self> {
        let KvShape { blocks, block_size, kv_heads, head_dim, .. } = *shape;
        let rows = blocks * kv_heads * block_size;
        let map = |first| TensorMap::new(Matrix { first, rows, columns: head_dim }, box_rows);
        Ok(Self { keys: map(layer.keys)?, values: map(layer.values)?, rows: box_rows as i32 })
    }
}

/// Slots of a box, if a GPU of this compute capability has a kernel that copies such rows in boxes: the greatest power of
/// two that divides a KV block, no more than a step of that kernel and no fewer than the eight that are swizzled together.
fn box_rows(capability: (u32, u32), shape: &KvShape) -> Option<usize> {
    /// As `KEYS` in the source.
    const STEP_ROWS: usize = 128;
    const HEAD_DIM: usize = 128;
    const SWIZZLED_ROWS: usize = 8;
    let has_kernel = capability == (9, 0)
        && matches!(shape.dtype, KvDType::F16 | KvDType::BF16)
        && (shape.head_dim, shape.values_from) == (HEAD_DIM, None);
    let is_there = shape.blocks * shape.kv_heads * shape.block_size > 0;
    let rows = 1 << shape.block_size.trailing_zeros().min(STEP_ROWS.trailing_zeros());
    (has_kernel && is_there && rows >= SWIZZLED_ROWS).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_lie_in_blocks() {
        let shape = KvShape {
            layers: 1,
            blocks: 10,
            block_size: 64,
            kv_heads: 2,
            head_dim: 128,
            values_from: None,
            dtype: KvDType::BF16,
        };
        let rows = |block_size| box_rows((9, 0), &KvShape { block_size, ..shape });
        let of_sizes = [1, 12, 8, 16, 24, 64, 96, 128, 384, 1024].map(rows);
        let expected = [None, None, Some(8), Some(16), Some(8), Some(64), Some(32), Some(128), Some(128), Some(128)];
        assert_eq!(of_sizes, expected);
        for other in [
            KvShape { head_dim: 64, ..shape },
            KvShape { values_from: Some(64), ..shape },
            KvShape { dtype: KvDType::Int8, ..shape },
            KvShape { blocks: 0, ..shape },
        ] {
            assert_eq!(box_rows((9, 0), &other), None, "{other:?}");
        }
        assert_eq!(box_rows((8, 0), &shape), None);
    }
}

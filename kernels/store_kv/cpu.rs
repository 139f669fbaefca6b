//! Filling the KV cache on the CPU.

use half::{bf16, f16};

use super::StoreKv;
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Elements, KvCache, Tensor},
};

impl StoreKv for Cpu {
    fn store_kv(&self, cache: &mut KvCache, layer: usize, qkv: &Tensor, heads: &Heads, batch: &Batch) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.slot_mapping.len(), "a slot per row");
        assert_eq!(
            (heads.kv, heads.dim),
            (cache.shape().kv_heads, cache.shape().head_dim),
            "the cache has these heads"
        );
        let (block_size, padded) = (cache.shape().block_size, cache.padded_slots());
        for (row, &slot) in batch.slot_mapping.iter().enumerate() {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            let (keys, values) = qkv.row(row)[heads.query * heads.dim..].split_at(heads.kv * heads.dim);
            for head in 0..heads.kv {
                let tile = cache.tile(layer, block, head);
                let range = head * heads.dim..(head + 1) * heads.dim;
                cache.keys.store(&keys[range.clone()], tile + offset, padded);
                cache.values.store(&values[range], tile + offset * heads.dim, 1);
            }
        }
        Ok(())
    }
}

impl Elements {
    /// Rounds `values` to the storage format, the first at `start`, the others `stride` elements apart.
    fn store(&mut self, values: &[f32], start: usize, stride: usize) {
        match self {
            Elements::F32(to) => spread(values, &mut to[start..], stride, |value| value),
            Elements::F16(to) => spread(values, &mut to[start..], stride, |value| f16::from_f32(value).to_bits()),
            Elements::BF16(to) => spread(values, &mut to[start..], stride, |value| bf16::from_f32(value).to_bits()),
        }
    }
}

fn spread<T>(values: &[f32], to: &mut [T], stride: usize, round: impl Fn(f32) -> T) {
    for (to, &value) in to.iter_mut().step_by(stride).zip(values) {
        *to = round(value);
    }
}

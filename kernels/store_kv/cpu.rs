//! Filling the KV cache on the CPU.

use super::StoreKv;
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Elements, KvBF16, KvCache, KvF16, KvF32, KvFormat, Split, Tensor},
};

/// What storing an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 1.0;

impl StoreKv for Cpu {
    fn store_kv(&self, cache: &mut KvCache, layer: usize, qkv: &Tensor, heads: &Heads, batch: &Batch) -> Result<()> {
        let shape = *cache.shape();
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.slot_mapping.len(), "a slot per row");
        assert_eq!((heads.kv, heads.dim), (shape.kv_heads, shape.head_dim), "the cache has these heads");
        let tiles = |slot: u32, head| cache.tile(layer, slot as usize / shape.block_size, head);
        let tiles: Vec<_> = batch.slot_mapping.iter().map(|&slot| tiles(slot, 0)).collect();
        let rows = Rows { qkv, heads, slots: &batch.slot_mapping, tiles: &tiles, block_size: shape.block_size };
        let strides = Strides {
            key_tile: shape.key_tile(),
            value_tile: shape.value_tile(),
            slots: shape.padded_slots(),
            dim: shape.padded_dim(),
        };
        match (&mut cache.keys, &mut cache.values) {
            (Elements::F32(keys), Elements::F32(values)) => self.store::<KvF32>(rows, strides, keys, values),
            (Elements::F16(keys), Elements::F16(values)) => self.store::<KvF16>(rows, strides, keys, values),
            (Elements::BF16(keys), Elements::BF16(values)) => self.store::<KvBF16>(rows, strides, keys, values),
            _ => unreachable!("keys and values are made in one format"),
        }
        Ok(())
    }
}

/// What is stored: the rows, and for each its slot and the tile of its first KV head.
struct Rows<'a> {
    qkv: &'a Tensor,
    heads: &'a Heads,
    slots: &'a [u32],
    tiles: &'a [usize],
    block_size: usize,
}

/// How far apart things are in the cache, in elements.
struct Strides {
    key_tile: usize,
    value_tile: usize,
    slots: usize,
    dim: usize,
}

impl Cpu {
    fn store<F: KvFormat>(&self, rows: Rows, strides: Strides, keys: &mut [F::Bits], values: &mut [F::Bits]) {
        let (keys, values) = (Split::new(keys), Split::new(values));
        let Rows { qkv, heads, slots, tiles, block_size } = rows;
        let nanoseconds = NANOSECONDS * (2 * qkv.rows() * heads.dim) as f64;
        self.team.share(heads.kv, nanoseconds, |head| {
            for (row, (&slot, &first_tile)) in slots.iter().zip(tiles).enumerate() {
                let (offset, tile) = (slot as usize % block_size, first_tile + head);
                let columns = &qkv.row(row)[(heads.query + head) * heads.dim..];
                // SAFETY: each item has its own head, thus its own tiles.
                let (keys, values) = unsafe {
                    let start = tile * strides.value_tile + offset * strides.dim;
                    let keys = keys.part(tile * strides.key_tile..(tile + 1) * strides.key_tile);
                    (keys, values.part(start..start + heads.dim))
                };
                for (to, &value) in keys[offset..].iter_mut().step_by(strides.slots).zip(&columns[..heads.dim]) {
                    *to = F::round(value);
                }
                for (to, &value) in values.iter_mut().zip(&columns[heads.kv * heads.dim..]) {
                    *to = F::round(value);
                }
            }
        });
    }
}

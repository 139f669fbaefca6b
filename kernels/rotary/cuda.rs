//! Heads before attention, on a GPU.

use super::{HeadNorms, Pairing, Rotary};
use crate::{
    DeviceError, Heads, KvShape, Result,
    cuda::{Cuda, DeviceBatch, Element, Grid, KvCache, Region, Source, Tensor},
};

const SOURCE: Source = Source { name: "rotary", text: include_str!("cuda.cu") };

/// By which angles heads are turned.
pub struct Angles {
    /// `f32 [pairs]`
    pub(crate) frequencies: Region,
    pub(crate) pairs: usize,
    pub(crate) magnitude: f32,
    pub(crate) pairing: Pairing,
}

impl Rotary for Cuda {
    fn rotary_store(
        &self,
        qkv: &mut Tensor,
        heads: &Heads,
        norms: Option<HeadNorms<Tensor>>,
        angles: &Angles,
        (cache, layer): (&mut KvCache, usize),
        batch: &DeviceBatch,
    ) -> Result<()> {
        const THREADS: usize = 256;
        /// Blocks for each multiprocessor, where there are few tokens: what it holds at once.
        const BLOCKS_HELD: usize = 8;
        let KvShape { blocks, block_size, kv_heads, head_dim, values_from, .. } = cache.shape;
        assert_eq!((qkv.columns(), qkv.element()), (heads.qkv_columns(), self.act()), "rows hold the heads");
        assert_eq!((heads.kv, heads.dim, heads.values_from), (kv_heads, head_dim, values_from), "the cache's heads");
        let batch_rows = (batch.host.positions.len(), batch.host.slot_mapping.len());
        assert_eq!(batch_rows, (qkv.rows(), qkv.rows()), "a position and a slot per row");
        assert!(batch.slots_end <= blocks * block_size, "slots of the cache");
        assert!(2 * angles.pairs <= head_dim, "no more angles than half a head");
        let is_norm = |weight: &Tensor| (weight.elements(), weight.element()) == (head_dim, Element::F32);
        let are_norms = norms.as_ref().is_none_or(|norms| is_norm(norms.query) && is_norm(norms.key));
        assert!(are_norms, "a norm weight per element of a head");
        if !head_dim.is_multiple_of(2) {
            return Err(DeviceError::Unsupported(format!("heads of {head_dim} elements, an odd number")));
        }
        let to = cache.layer(layer);
        let arguments = &mut [
            (&*qkv).into(),
            to.keys.into(),
            values_from.is_none().then_some(to.values).into(),
            to.key_scales.into(),
            to.value_scales.into(),
            norms.as_ref().map(|norms| norms.query.pointer()).into(),
            norms.as_ref().map(|norms| norms.key.pointer()).into(),
            angles.frequencies.pointer().into(),
            batch.positions().into(),
            batch.slot_mapping().into(),
            qkv.columns().into(),
            heads.query.into(),
            kv_heads.into(),
            head_dim.into(),
            block_size.into(),
            angles.pairs.into(),
            (angles.pairing == Pairing::Interleaved).into(),
            angles.magnitude.into(),
            norms.as_ref().map_or(0.0, |norms| norms.eps).into(),
        ];
        // With few tokens, each head has a warp of its own; with many, heads of a token share its sines.
        let most = (qkv.columns() / head_dim).div_ceil(THREADS / 32);
        let held = self.facts().multiprocessors as usize * BLOCKS_HELD;
        let by_heads = (held / qkv.rows().max(1)).clamp(1, most);
        let shared_bytes = (angles.pairs * 2 * size_of::<f32>()) as u32;
        let grid = Grid { blocks: [qkv.rows() as u32, by_heads as u32, 1], threads: THREADS as u32, shared_bytes };
        // SAFETY: rows hold the query, key and value heads, of at least twice as many elements as there are pairs; there
        // is a position and a slot per row, and all slots are the cache's, whose layer has a row for each slot and KV
        // head. Scales are there where the format has them, and norms have an element per element of a head.
        unsafe { self.launch_for((&SOURCE, cache.format()), "rotary_store", grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Batch, KvDType,
        attention::{Attention, Scoring},
        cuda::NO_SLOT,
        memory::Memory,
        rotary::Turns,
    };

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::rotary::check(&gpu);
        }
    }

    /// Tokens without a slot are turned as others are, and what the cache holds stays.
    #[test]
    fn tokens_without_a_slot_leave_nothing() {
        let heads = Heads { query: 1, kv: 1, dim: 4, group: 1, first_in_group: 0, values_from: None };
        let shape = KvShape {
            layers: 1,
            blocks: 1,
            block_size: 1,
            kv_heads: 1,
            head_dim: 4,
            values_from: None,
            dtype: KvDType::Int8,
        };
        for gpu in Cuda::kinds() {
            let turns = Turns { frequencies: vec![1.0], magnitude: 2.0, pairing: Pairing::Half, positions: 1 };
            let angles = gpu.angles(turns).expect("memory");
            let mut cache = gpu.kv_cache(shape).expect("memory");
            for (slot, value) in [(0, 1.0), (NO_SLOT, 3.0)] {
                let batch = Batch {
                    tokens: vec![0],
                    positions: vec![0],
                    slot_mapping: vec![slot],
                    query_starts: vec![0, 1],
                    context_lengths: vec![1],
                    block_tables: vec![vec![0]],
                };
                let batch = gpu.batch(batch).expect("memory");
                let mut qkv = gpu.tensor(1, 12, &[value; 12]).expect("memory");
                gpu.rotary_store(&mut qkv, &heads, None, &angles, (&mut cache, 0), &batch).expect("a rotation");
                let turned = gpu.to_host(&qkv).expect("a copy");
                assert_eq!(turned[..4], [2.0 * value, 2.0 * value, value, value], "slot {slot}");
                let scoring = Scoring { scale: 1.0, window: None, sinks: None };
                let attended = gpu.attention(&qkv, &cache, 0, &heads, &scoring, &batch).expect("attention");
                let found = gpu.to_host(&attended).expect("a copy");
                assert!(found.iter().all(|value| (value - 1.0).abs() < 1e-2), "slot {slot}: {found:?}");
            }
        }
    }
}

//! Filling the KV cache on a GPU.

use super::StoreKv;
use crate::{
    Heads, KvShape, Result,
    cuda::{Cuda, DeviceBatch, Grid, KvCache, Source, Tensor},
};

const SOURCE: Source = Source { name: "store_kv", text: include_str!("cuda.cu") };

impl StoreKv for Cuda {
    fn store_kv(
        &self,
        cache: &mut KvCache,
        layer: usize,
        qkv: &Tensor,
        heads: &Heads,
        batch: &DeviceBatch,
    ) -> Result<()> {
        const THREADS: usize = 256;
        let KvShape { blocks, block_size, kv_heads, head_dim, values_from, .. } = cache.shape;
        assert_eq!((qkv.columns(), qkv.element()), (heads.qkv_columns(), self.act()), "rows hold the heads");
        assert_eq!(qkv.rows(), batch.host.slot_mapping.len(), "a slot per row");
        assert_eq!((heads.kv, heads.dim, heads.values_from), (kv_heads, head_dim, values_from), "the cache's heads");
        assert!(batch.slots_end <= blocks * block_size, "slots of the cache");
        let own_values = values_from.is_none();
        let to = cache.layer(layer);
        let arguments = &mut [
            to.keys.into(),
            own_values.then_some(to.values).into(),
            to.key_scales.into(),
            to.value_scales.into(),
            qkv.into(),
            batch.slot_mapping().into(),
            qkv.rows().into(),
            qkv.columns().into(),
            heads.query.into(),
            kv_heads.into(),
            head_dim.into(),
            block_size.into(),
        ];
        let warps = qkv.rows() * kv_heads * if own_values { 2 } else { 1 };
        let grid =
            Grid { blocks: [warps.div_ceil(THREADS / 32) as u32, 1, 1], threads: THREADS as u32, shared_bytes: 0 };
        // SAFETY: the layer has a row for each slot and KV head, the rows of `qkv` hold as many heads, and all slots are
        // the cache's. Scales are there where the format has them.
        unsafe { self.launch_for((&SOURCE, cache.format()), "store_kv", grid, arguments) }
    }
}

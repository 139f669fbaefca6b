//! Attention on the CPU.

use half::{bf16, f16};

use super::Attention;
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Elements, KvCache, Tensor},
};

impl Attention for Cpu {
    fn attention(
        &self,
        qkv: &Tensor,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        scale: f32,
        batch: &Batch,
    ) -> Result<Tensor> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(
            (heads.kv, heads.dim),
            (cache.shape().kv_heads, cache.shape().head_dim),
            "the cache has these heads"
        );
        let mut output = self.scratch(qkv.rows(), heads.query * heads.dim);
        let (block_size, padded, dim) = (cache.shape().block_size, cache.padded_slots(), heads.dim);
        for (sequence, table) in batch.block_tables.iter().enumerate() {
            for row in batch.query_starts[sequence] as usize..batch.query_starts[sequence + 1] as usize {
                let seen = batch.positions[row] as usize + 1;
                for head in 0..heads.query {
                    let query = &qkv.row(row)[head * dim..(head + 1) * dim];
                    let output = &mut output.row_mut(row)[head * dim..(head + 1) * dim];
                    output.fill(0.0);
                    let (mut best, mut total) = (f32::NEG_INFINITY, 0.0);
                    for slot in 0..seen {
                        let block = table[slot / block_size] as usize;
                        let tile = cache.tile(layer, block, heads.kv_of(head));
                        let offset = slot % block_size;
                        let score: f32 =
                            (0..dim).map(|d| query[d] * cache.keys.load(tile + d * padded + offset)).sum::<f32>()
                                * scale;
                        let new_best = best.max(score);
                        let (keep, weight) = ((best - new_best).exp(), (score - new_best).exp());
                        best = new_best;
                        total = total * keep + weight;
                        for (d, output) in output.iter_mut().enumerate() {
                            *output = *output * keep + weight * cache.values.load(tile + offset * dim + d);
                        }
                    }
                    output.iter_mut().for_each(|output| *output /= total);
                }
            }
        }
        Ok(output)
    }
}

impl Elements {
    fn load(&self, at: usize) -> f32 {
        match self {
            Elements::F32(from) => from[at],
            Elements::F16(from) => f16::from_bits(from[at]).to_f32(),
            Elements::BF16(from) => bf16::from_bits(from[at]).to_f32(),
        }
    }
}

//! Attention on a GPU: which kernels see to which sequences, and how many blocks share a long context.

mod problem;

use self::problem::{Problem, packed};
use super::{Attention, Scoring};
use crate::{
    Heads, KvShape, Result,
    cuda::{Argument, Cuda, DeviceBatch, Element, Grid, KvCache, Source, Tensor},
};

const PLAIN: Source = Source { name: "attention", text: include_str!("cuda.cu") };

impl Attention for Cuda {
    fn attention(
        &self,
        qkv: &Tensor,
        cache: &KvCache,
        layer: usize,
        heads: &Heads,
        scoring: &Scoring<Tensor>,
        batch: &DeviceBatch,
    ) -> Result<Tensor> {
        assert_eq!((qkv.columns(), qkv.element()), (heads.qkv_columns(), self.act()), "rows hold the heads");
        check_batch(batch, qkv.rows(), &cache.shape);
        let KvShape { kv_heads, head_dim, values_from, .. } = cache.shape;
        assert_eq!((heads.kv, heads.dim, heads.values_from), (kv_heads, head_dim, values_from), "the cache's heads");
        let sinks =
            scoring.sinks.is_none_or(|sinks| (sinks.elements(), sinks.element()) == (heads.query, Element::F32));
        assert!(sinks, "a sink per query head");
        assert!(scoring.window != Some(0), "a query sees itself");
        let output = self.activations(qkv.rows(), heads.query * heads.value_dim())?;
        let problem = Problem::new(&output, qkv, (cache, layer), heads, scoring, batch);
        self.attend_plainly(problem, cache, heads, batch)?;
        Ok(output)
    }
}

impl Cuda {
    fn attend_plainly(&self, problem: Problem, cache: &KvCache, heads: &Heads, batch: &DeviceBatch) -> Result<()> {
        // As in the source.
        const ROWS: usize = 16;
        const THREADS: usize = 128;
        const KEYS_AT_ONCE: usize = 32;
        const KEYS_LEAST: usize = 256;
        let packed = packed(heads);
        let tiles = batch.host.positions.len() / (ROWS / packed.max(1)).max(1) + batch.sequences();
        let head_tiles = heads.kv * packed.div_ceil(ROWS);
        let splits = self.splits(tiles * head_tiles, batch.context_max.div_ceil(KEYS_LEAST));
        let partial_rows = tiles * head_tiles * splits * ROWS;
        let values = self.scratch(partial_rows * heads.value_dim() * size_of::<f32>())?;
        let sums = self.scratch(partial_rows * 2 * size_of::<f32>())?;
        let problem = problem.split(splits, values.pointer(), sums.pointer());
        let source = (&PLAIN, cache.format());
        let shared = THREADS / 32 * (heads.dim + heads.value_dim() + 2 * KEYS_AT_ONCE) * size_of::<f32>();
        let blocks = [tiles as u32, head_tiles as u32, splits as u32];
        let grid = Grid { blocks, threads: THREADS as u32, shared_bytes: shared as u32 };
        // SAFETY: the batch's sequences lie within the rows of `qkv` and the blocks of the cache, as was checked; partial
        // results have room for each row of each split.
        unsafe { self.launch_for(source, "attend", grid, &mut [Argument::of(&problem)]) }?;
        if splits == 1 {
            return Ok(());
        }
        let grid = Grid { blocks: [tiles as u32, head_tiles as u32, 1], shared_bytes: 0, ..grid };
        // SAFETY: the same problem.
        unsafe { self.launch_for(source, "merge", grid, &mut [Argument::of(&problem)]) }
    }

    /// How many blocks share a tile's keys at most: enough that all `tiles` fill the GPU some times over.
    fn splits(&self, tiles: usize, most: usize) -> usize {
        const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
        let wanted = BLOCKS_PER_MULTIPROCESSOR * self.facts().multiprocessors as usize;
        (wanted / tiles.max(1)).clamp(1, most.max(1))
    }
}

/// Whether all that kernels are going to read is there.
fn check_batch(batch: &DeviceBatch, rows: usize, shape: &KvShape) {
    let host = &batch.host;
    assert_eq!(host.query_starts.len(), batch.sequences() + 1, "a beginning per sequence, and the end");
    assert_eq!(host.query_starts.last().map(|&end| end as usize), Some(rows), "a row per query");
    assert!(batch.blocks_end <= shape.blocks, "blocks of the cache");
    let fits = |(index, &context): (usize, &u32)| {
        let queries = host.query_starts[index + 1].checked_sub(host.query_starts[index]);
        let room = host.block_tables[index].len() * shape.block_size;
        queries.is_some_and(|queries| queries <= context) && context as usize <= room
    };
    assert!(host.context_lengths.iter().enumerate().all(fits), "queries within contexts, contexts within their blocks");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::attention::check(&gpu);
        }
    }
}

//! Attention on a GPU: which kernels see to which sequences, and how many blocks share a long context.

mod decode;
mod problem;

use self::problem::{Problem, packed};
use super::{Attention, Scoring};
use crate::{
    Heads, KvDType, KvShape, Result,
    cuda::{Argument, Buffer, Cuda, DeviceBatch, Element, Grid, KvCache, Source, Tensor},
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
        let view = View {
            problem: Problem::new(&output, qkv, (cache, layer), heads, scoring, batch),
            cache,
            heads,
            batch,
            packed: packed(heads),
        };
        match self.tensor_dim(&view) {
            None => self.attend_tiles(&view, &plain(&view), 1)?,
            Some(dim) => {
                let few = (decode::ROWS / view.packed.max(1)).max(1);
                if batch.queries_max > few {
                    self.attend_tiles(&view, &plain(&view), few + 1)?;
                }
                if batch.host.query_starts.windows(2).any(|ends| (1..=few).contains(&((ends[1] - ends[0]) as usize))) {
                    self.decode(&view, dim, few)?;
                }
            }
        }
        Ok(output)
    }
}

/// What an attention reads.
struct View<'a> {
    problem: Problem,
    cache: &'a KvCache,
    heads: &'a Heads,
    batch: &'a DeviceBatch,
    packed: usize,
}

/// A kernel that takes tiles of rows, one block each or several.
struct TileKernel {
    source: &'static Source,
    entry: &'static str,
    merge: &'static str,
    /// Rows of a tile, threads of a block, and the least keys that a block takes, as in the source.
    rows: usize,
    threads: usize,
    keys_least: usize,
    shared_bytes: usize,
    /// How many such blocks a multiprocessor holds.
    blocks: usize,
}

fn plain(view: &View) -> TileKernel {
    const WARPS: usize = 4;
    let warp_floats = view.heads.dim + view.heads.value_dim() + 2 * 32;
    TileKernel {
        source: &PLAIN,
        entry: "attend",
        merge: "merge",
        rows: 16,
        threads: 32 * WARPS,
        keys_least: 256,
        shared_bytes: WARPS * warp_floats * size_of::<f32>(),
        blocks: 4,
    }
}

impl Cuda {
    /// The kernels' head dim that tensor cores compute these heads with; none where they can't.
    fn tensor_dim(&self, view: &View) -> Option<usize> {
        let KvShape { dtype, head_dim, values_from, .. } = view.cache.shape;
        // Rows are moved by pieces of 16 bytes.
        let in_pieces = (head_dim * view.cache.element_bytes()).is_multiple_of(16);
        let fits = self.act() == Element::BF16 && dtype != KvDType::F32 && values_from.is_none() && in_pieces;
        [64, 128, 256].into_iter().find(|&dim| fits && head_dim <= dim)
    }

    /// Sequences of at least `queries_least` queries by `kernel`.
    fn attend_tiles(&self, view: &View, kernel: &TileKernel, queries_least: usize) -> Result<()> {
        let &TileKernel { source, entry, merge, rows, threads, keys_least, shared_bytes, blocks } = kernel;
        // Each sequence's last tile may be a part of one.
        let tiles = view.batch.host.positions.len() / (rows / view.packed.max(1)).max(1) + view.batch.sequences();
        let head_tiles = view.heads.kv * view.packed.div_ceil(rows);
        let blocks = blocks * self.facts().multiprocessors as usize;
        let splits =
            (blocks / (tiles * head_tiles).max(1)).clamp(1, view.batch.context_max.div_ceil(keys_least).max(1));
        let partials = if splits > 1 { tiles * head_tiles * splits } else { 0 };
        let [values, sums] = self.partials(view, partials * rows)?;
        let problem = view.problem.of_queries(queries_least, usize::MAX).split(splits, &values, &sums);
        let format = view.cache.format();
        let blocks = [tiles as u32, head_tiles as u32, splits as u32];
        let grid = Grid { blocks, threads: threads as u32, shared_bytes: shared_bytes as u32 };
        // SAFETY: the batch's sequences lie within the rows of `qkv` and the blocks of the cache, as was checked; partial
        // results have room for each row of each split.
        unsafe { self.launch_for((source, format), entry, grid, &mut [Argument::of(&problem)]) }?;
        if splits == 1 {
            return Ok(());
        }
        let grid = Grid { blocks: [tiles as u32, head_tiles as u32, 1], shared_bytes: 0, ..grid };
        // SAFETY: the same problem.
        unsafe { self.launch_for((source, format), merge, grid, &mut [Argument::of(&problem)]) }
    }

    /// Room for partial results of so many rows: their values, and their sums.
    fn partials(&self, view: &View, rows: usize) -> Result<[Buffer; 2]> {
        let floats = |count: usize| self.scratch(count * size_of::<f32>());
        Ok([floats(rows * view.heads.value_dim())?, floats(rows * 2)?])
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

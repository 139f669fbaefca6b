//! Attention on a GPU: which kernels see to which sequences, and how many blocks share a context.

mod kernels;
mod problem;

use self::kernels::{Kernel, LATENT_KEY_MAX, LATENT_VALUES_FROM_MAX};
use self::problem::{Problem, packed};
use super::{Attention, Scoring};
use crate::{
    Heads, KvDType, KvShape, Result,
    cuda::{Argument, Buffer, Cuda, DeviceBatch, Element, Grid, KvBoxes, KvCache, Tensor},
};

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
        assert!(scoring.scale > 0.0, "the greatest product is the greatest score");
        let output = self.activations(qkv.rows(), heads.query * heads.value_dim())?;
        let problem = Problem::new(&output, qkv, (cache, layer), heads, scoring, batch);
        let view = View { problem, cache, boxes: cache.boxes(layer), heads, batch, packed: packed(heads) };
        let (few, many) = match self.tensor_cores(&cache.shape, cache.element_bytes()) {
            None => return self.attend_tiles(&view, &Kernel::plain(&view), 1).map(|()| output),
            Some(Form::Heads(dim)) => (Kernel::decode(&view, dim), Kernel::prefill(&view, dim)),
            Some(Form::Latents) => (Kernel::latent(&view, self.facts()), Kernel::latent_tiles(&view, self.facts())),
        };
        if !few.fits(self.facts()) {
            return self.attend_tiles(&view, &many, 1).map(|()| output);
        }
        let few_queries = few.queries_of_tile(&view);
        if batch.queries_max > few_queries {
            self.attend_tiles(&view, &many, few_queries + 1)?;
        }
        let counts = batch.host.query_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        if counts.into_iter().any(|count| (1..=few_queries).contains(&count)) {
            self.attend_shares(&view, &few, few_queries)?;
        }
        Ok(output)
    }
}

/// What an attention reads.
struct View<'a> {
    problem: Problem,
    cache: &'a KvCache,
    /// How the layer's rows are copied in boxes, where they can be.
    boxes: Option<&'a KvBoxes>,
    heads: &'a Heads,
    batch: &'a DeviceBatch,
    /// The most query heads that share a KV head.
    packed: usize,
}

/// What tensor cores compute with.
enum Form {
    /// Keys and values, by a kernel for so many elements.
    Heads(usize),
    /// Latent rows, by the kernel for them.
    Latents,
}

/// Threads of a block that merges, in all sources.
const MERGE_THREADS: u32 = 128;

impl Kernel {
    /// Queries of a tile, whose rows are those of all heads that share a KV head.
    fn queries_of_tile(&self, view: &View) -> usize {
        (self.rows / view.packed.max(1)).max(1)
    }

    /// Tiles that heads need: where they are more than a tile has rows, several for each KV head.
    fn head_tiles(&self, view: &View) -> usize {
        view.heads.kv * view.packed.div_ceil(self.rows)
    }
}

impl Cuda {
    /// How tensor cores compute attention over such a cache; none if they can't.
    fn tensor_cores(&self, shape: &KvShape, element_bytes: usize) -> Option<Form> {
        // Rows, and values in them, are moved by pieces of 16 bytes.
        let in_pieces = |elements: usize| (elements * element_bytes).is_multiple_of(16);
        if self.act() != Element::BF16 || shape.dtype == KvDType::F32 || !in_pieces(shape.head_dim) {
            return None;
        }
        match shape.values_from {
            None => [64, 128, 256].into_iter().find(|&dim| shape.head_dim <= dim).map(Form::Heads),
            Some(first) => {
                let fits = shape.head_dim <= LATENT_KEY_MAX && first <= LATENT_VALUES_FROM_MAX && in_pieces(first);
                fits.then_some(Form::Latents)
            }
        }
    }

    /// Sequences of at least `queries_least` queries: a block for each tile of rows, or several where there are few tiles.
    fn attend_tiles(&self, view: &View, kernel: &Kernel, queries_least: usize) -> Result<()> {
        /// Keys that a block takes at least, as in the sources.
        const KEYS_LEAST: usize = 256;
        // Each sequence's last tile may be a part of one.
        let tiles = view.batch.host.positions.len() / kernel.queries_of_tile(view) + view.batch.sequences();
        let head_tiles = kernel.head_tiles(view);
        let splits_most = view.batch.context_max.div_ceil(KEYS_LEAST).max(1);
        let splits = (kernel.blocks_held(self.facts()) / (tiles * head_tiles).max(1)).clamp(1, splits_most);
        let partials = if splits > 1 { tiles * head_tiles * splits } else { 0 };
        let [values, sums] = self.partials(view, partials * kernel.rows)?;
        let problem = view.problem.of_queries(queries_least, usize::MAX).split(splits, &values, &sums);
        let blocks = [tiles as u32, head_tiles as u32, splits as u32];
        let merge_blocks = (splits > 1).then_some([tiles as u32, head_tiles as u32, 1]);
        self.attend(view, kernel, &problem, blocks, merge_blocks)
    }

    /// Sequences of at most `queries_most` queries, all of which fit into one tile: contexts are dealt out evenly to as
    /// many blocks as the GPU holds.
    fn attend_shares(&self, view: &View, kernel: &Kernel, queries_most: usize) -> Result<()> {
        let blocks = kernel.blocks_held(self.facts());
        // A block has two at most: of the context that it begins within, and of that which it ends within.
        let [values, sums] = self.partials(view, 2 * blocks * kernel.rows)?;
        let problem = view.problem.of_queries(1, queries_most).split(blocks, &values, &sums);
        // A warp for each row that there may be.
        let rows = (view.packed * view.batch.queries_max.min(queries_most)).min(kernel.rows);
        let row_blocks = rows.div_ceil(MERGE_THREADS as usize / 32);
        let merge_blocks = [view.batch.sequences(), kernel.head_tiles(view), row_blocks].map(|count| count as u32);
        self.attend(view, kernel, &problem, [blocks as u32, 1, 1], Some(merge_blocks))
    }

    /// Room for partial results of so many rows: their values, and their sums.
    fn partials(&self, view: &View, rows: usize) -> Result<[Buffer; 2]> {
        let floats = |count: usize| self.scratch(count * size_of::<f32>());
        Ok([floats(rows * view.heads.value_dim())?, floats(rows * 2)?])
    }

    fn attend(
        &self,
        view: &View,
        kernel: &Kernel,
        problem: &Problem,
        blocks: [u32; 3],
        merge_blocks: Option<[u32; 3]>,
    ) -> Result<()> {
        let source = (kernel.source, view.cache.format());
        let grid = Grid { blocks, threads: kernel.threads as u32, shared_bytes: kernel.shared_bytes as u32 };
        let mut arguments: Vec<Argument> = vec![Argument::of(problem)];
        arguments.extend(kernel.boxes.as_ref().map(Argument::of));
        // SAFETY: the batch's sequences lie within the rows of `qkv` and the blocks of the cache, as was checked; partial
        // results have room for each row that the grid can have. Boxes are those of the problem's layer.
        unsafe { self.launch_for(source, kernel.entry, grid, &mut arguments) }?;
        let Some(blocks) = merge_blocks else { return Ok(()) };
        let grid = Grid { blocks, threads: MERGE_THREADS, shared_bytes: 0 };
        // SAFETY: the same problem.
        unsafe { self.launch_for(source, kernel.merge, grid, &mut arguments) }
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

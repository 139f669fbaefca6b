//! Few queries per sequence: contexts dealt out evenly to as many blocks as the GPU holds.

use super::View;
use crate::{
    Result,
    cuda::{Argument, Cuda, Grid, Source},
};

const SOURCE: Source = Source { name: "decode", text: include_str!("../decode/cuda.cu") };

/// Rows of a tile, as in the source.
pub(super) const ROWS: usize = 16;

const THREADS: u32 = 128;

impl Cuda {
    /// Sequences of at most `queries_most` queries, all of which fit into one tile, by the kernel for heads of at most
    /// `dim` elements.
    pub(super) fn decode(&self, view: &View, dim: usize, queries_most: usize) -> Result<()> {
        let entry = match dim {
            64 => "decode_64",
            128 => "decode_128",
            _ => "decode_256",
        };
        // Keys and values of 64 positions, twice: those that are computed with and those on their way.
        let shared_bytes = 2 * 2 * 64 * dim * view.cache.element_bytes();
        let blocks = self.facts().multiprocessors as usize * self.blocks_held(shared_bytes, dim);
        let head_tiles = view.heads.kv * view.packed.div_ceil(ROWS);
        // A block has two at most: of the context that it begins within, and of that which it ends within.
        let [values, sums] = self.partials(view, 2 * blocks * ROWS)?;
        let problem = view.problem.of_queries(1, queries_most).split(blocks, &values, &sums);
        let source = (&SOURCE, view.cache.format());
        let grid = Grid { blocks: [blocks as u32, 1, 1], threads: THREADS, shared_bytes: shared_bytes as u32 };
        // SAFETY: the batch's sequences lie within the rows of `qkv` and the blocks of the cache, as was checked; partial
        // results have room for each row of each block.
        unsafe { self.launch_for(source, entry, grid, &mut [Argument::of(&problem)]) }?;
        let blocks = [view.batch.sequences() as u32, head_tiles as u32, 1];
        let merge = Grid { blocks, threads: THREADS, shared_bytes: 0 };
        // SAFETY: the same problem.
        unsafe { self.launch_for(source, "decode_merge", merge, &mut [Argument::of(&problem)]) }
    }

    /// How many such blocks a multiprocessor holds.
    fn blocks_held(&self, shared_bytes: usize, dim: usize) -> usize {
        /// What the driver keeps of a block's shared memory for itself.
        const RESERVED: usize = 1024;
        // One block may have all of a multiprocessor's but what is reserved.
        let by_shared = (self.facts().shared_bytes_max as usize + RESERVED) / (shared_bytes + RESERVED);
        let by_registers = if dim <= 128 { 3 } else { 2 };
        by_shared.clamp(1, by_registers)
    }
}

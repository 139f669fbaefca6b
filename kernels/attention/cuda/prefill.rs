//! Many queries per sequence: tiles of them, on tensor cores.

use super::{TileKernel, View, stride_of};
use crate::cuda::Source;

const SOURCE: Source = Source { name: "prefill", text: include_str!("../prefill/cuda.cu") };

/// The kernel for heads of at most `dim` elements.
pub(super) fn kernel(view: &View, dim: usize) -> TileKernel {
    let element_bytes = view.cache.element_bytes();
    // As in the source.
    let (entry, merge, rows, keys) = match dim {
        64 => ("prefill_64", "prefill_merge_64", 128, 64),
        128 => ("prefill_128", "prefill_merge_128", 128, if element_bytes == 2 { 64 } else { 32 }),
        _ => ("prefill_256", "prefill_merge_256", 64, 32),
    };
    TileKernel {
        source: &SOURCE,
        entry,
        merge,
        rows,
        threads: 128,
        keys_least: 256,
        shared_bytes: rows * stride_of(2 * dim) + 2 * keys * stride_of(dim * element_bytes),
        blocks: 2,
    }
}

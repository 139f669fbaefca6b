//! The kernels by what they are for, and what their blocks need.

use super::View;
use crate::cuda::{Facts, KvBoxes, Source};

/// Rows that kernels take together, and a block for each such tile or for a share of all.
pub(super) struct Kernel {
    pub(super) source: &'static Source,
    pub(super) entry: &'static str,
    pub(super) merge: &'static str,
    /// Rows of a tile, as in the source.
    pub(super) rows: usize,
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
    /// As many blocks fit into a multiprocessor by their registers.
    by_registers: usize,
    /// What it is told besides the problem, if it copies keys and values in boxes.
    pub(super) boxes: Option<KvBoxes>,
}

/// Bytes from one row of `bytes` bytes to the next in shared memory, as in attention_fragments.cuh.
const fn stride_of(bytes: usize) -> usize {
    bytes + 16
}

impl Kernel {
    /// Any head dim, format and type of activations.
    pub(super) fn plain(view: &View) -> Self {
        const SOURCE: Source = Source { name: "attention", text: include_str!("../cuda.cu") };
        const WARPS: usize = 4;
        const KEYS_AT_ONCE: usize = 32;
        let warp_floats = view.heads.dim + view.heads.value_dim() + 2 * KEYS_AT_ONCE;
        Self {
            source: &SOURCE,
            entry: "attend",
            merge: "merge",
            rows: 16,
            threads: 32 * WARPS,
            shared_bytes: WARPS * warp_floats * size_of::<f32>(),
            by_registers: 8,
            boxes: None,
        }
    }

    /// Few queries per sequence with heads of at most `dim` elements.
    pub(super) fn decode(view: &View, dim: usize) -> Self {
        const SOURCE: Source = Source { name: "decode", text: include_str!("../decode/cuda.cu") };
        let (entry, by_registers) = match dim {
            64 => ("decode_64", 4),
            128 => ("decode_128", 3),
            _ => ("decode_256", 2),
        };
        // Keys and values of 64 positions, twice: those that are computed with and those on their way.
        let shared_bytes = 2 * 2 * 64 * stride_of(dim * view.cache.element_bytes());
        let (rows, threads) = (16, 128);
        Self { source: &SOURCE, entry, merge: "decode_merge", rows, threads, shared_bytes, by_registers, boxes: None }
    }

    /// Many.
    pub(super) fn prefill(view: &View, dim: usize) -> Self {
        if let Some(&boxes) = view.boxes {
            return Self::prefill_by_warpgroups(boxes);
        }
        const SOURCE: Source = Source { name: "prefill", text: include_str!("../prefill/cuda.cu") };
        let element_bytes = view.cache.element_bytes();
        let (entry, merge, rows, keys) = match dim {
            64 => ("prefill_64", "prefill_merge_64", 128, 64),
            128 => ("prefill_128", "prefill_merge_128", 128, if element_bytes == 2 { 64 } else { 32 }),
            _ => ("prefill_256", "prefill_merge_256", 64, 32),
        };
        let shared_bytes = rows * stride_of(2 * dim) + 2 * keys * stride_of(dim * element_bytes);
        Self { source: &SOURCE, entry, merge, rows, threads: 128, shared_bytes, by_registers: 2, boxes: None }
    }

    /// Many, by instructions that only GPUs of compute capability 9.0 have.
    fn prefill_by_warpgroups(boxes: KvBoxes) -> Self {
        const SOURCE: Source = Source { name: "prefill_90a", text: include_str!("../prefill_90a/cuda.cu") };
        // As in the source: rows of 128 elements of two bytes, and what may be lost for tiles to begin where they must.
        const ROWS: usize = 128;
        const KEYS: usize = 128;
        const STAGES: usize = 2;
        const ALIGNMENT: usize = 1024;
        let shared_bytes = (ROWS + 2 * STAGES * KEYS) * 2 * 128 + ALIGNMENT;
        let (entry, merge) = ("prefill_90a_128", "prefill_90a_merge_128");
        let (rows, threads, by_registers) = (ROWS, 384, 1);
        Self { source: &SOURCE, entry, merge, rows, threads, shared_bytes, by_registers, boxes: Some(boxes) }
    }

    /// Few queries per sequence, where values lie within keys: as few rows as hold all queries of a sequence, or of what
    /// the GPU has room for.
    pub(super) fn latent(view: &View, facts: &Facts) -> Self {
        let table = [
            (16, "latent_16", "latent_merge_16", 128, 3),
            (32, "latent_32", "latent_merge_32", 256, 1),
            (64, "latent_64", "latent_merge_64", 256, 1),
        ];
        let wanted = match view.packed * view.batch.queries_max {
            all @ ..=64 => all,
            _ => view.packed,
        };
        let kernels = table.map(|kernel| Self::of_latents(view, kernel));
        let largest = kernels.iter().filter(|kernel| kernel.fits(facts)).map(|kernel| kernel.rows).max().unwrap_or(16);
        let rows = wanted.min(largest);
        kernels.into_iter().find(|kernel| kernel.rows >= rows).expect("there are no more rows than the largest has")
    }

    /// Many.
    pub(super) fn latent_tiles(view: &View, facts: &Facts) -> Self {
        let large = Self::of_latents(view, (64, "latent_tiles_64", "latent_tiles_merge_64", 256, 1));
        if large.fits(facts) {
            return large;
        }
        Self::of_latents(view, (16, "latent_tiles_16", "latent_tiles_merge_16", 128, 3))
    }

    fn of_latents(view: &View, kernel: (usize, &'static str, &'static str, usize, usize)) -> Self {
        const SOURCE: Source = Source { name: "latent", text: include_str!("../latent/cuda.cu") };
        // As in the source.
        const KEYS: usize = 32;
        const STAGES: usize = 2;
        let (rows, entry, merge, threads, by_registers) = kernel;
        let tiles = STAGES * KEYS * stride_of(LATENT_KEY_MAX * view.cache.element_bytes());
        let shared_bytes = tiles + rows * (stride_of(2 * LATENT_KEY_MAX) + stride_of(2 * KEYS));
        Self { source: &SOURCE, entry, merge, rows, threads, shared_bytes, by_registers, boxes: None }
    }

    /// Whether the GPU has the shared memory: some have 99 KiB for a block, too little for few queries of wide heads.
    pub(super) fn fits(&self, facts: &Facts) -> bool {
        /// Besides these, kernels have some that they declare themselves.
        const DECLARED: usize = 2048;
        self.shared_bytes + DECLARED <= facts.shared_bytes_max as usize
    }

    /// How many blocks the GPU holds at once.
    pub(super) fn blocks_held(&self, facts: &Facts) -> usize {
        /// What the driver keeps of a block's shared memory for itself, and more than kernels declare.
        const RESERVED: usize = 3072;
        // One block may have all of a multiprocessor's but what is reserved.
        let by_shared = (facts.shared_bytes_max as usize + RESERVED) / (self.shared_bytes + RESERVED);
        by_shared.clamp(1, self.by_registers) * facts.multiprocessors as usize
    }
}

/// Elements of a latent row at most, and where the values in it begin at the latest, as in the source.
pub(super) const LATENT_KEY_MAX: usize = 576;
pub(super) const LATENT_VALUES_FROM_MAX: usize = 64;

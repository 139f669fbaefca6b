//! How products are launched: what the device functions of `product.cuh` want of a grid.

use super::Element;
use crate::DType;

/// Outputs of a warp of `skinny_product`.
pub(crate) const TILE_OUTPUTS: usize = 16;

/// Warps of a block of it, at most.
const WARPS_MAX: usize = 8;

/// Steps that a warp of it has on their way.
const STAGES: usize = 3;

/// How `skinny_product` shares the work: each block takes `tiles` tiles of outputs, and cuts the inputs into `slices`.
/// It depends on a weight's size alone, so that a row's result does not depend on how many rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skinny {
    pub(crate) tiles: usize,
    pub(crate) slices: usize,
    /// Dynamic shared memory of a block, bytes.
    pub(crate) shared_bytes: usize,
}

impl Skinny {
    /// As few slices as still make `blocks_wanted` blocks, for a block's rows of x are read once for all of its tiles.
    pub(crate) fn plan(dtype: DType, outputs: usize, inputs: usize, blocks_wanted: usize) -> Self {
        let all = outputs.div_ceil(TILE_OUTPUTS);
        let tiles = [8, 4, 2].into_iter().find(|tiles| all.div_ceil(*tiles) >= blocks_wanted).unwrap_or(1);
        let steps = inputs.div_ceil(step_columns(dtype)).max(1);
        let slices = (WARPS_MAX / tiles).min(steps);
        Self { tiles, slices, shared_bytes: tiles * slices * ring_bytes(dtype) }
    }

    /// Blocks for so many outputs.
    pub(crate) fn blocks(&self, outputs: usize) -> usize {
        outputs.div_ceil(TILE_OUTPUTS * self.tiles)
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> usize {
        32 * self.tiles * self.slices
    }
}

/// Columns of a step of `skinny_product`.
pub(crate) const fn step_columns(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 32,
        DType::F16 | DType::BF16 => 64,
        DType::Q8_0 | DType::WInt8 | DType::F8_E4M3 => 128,
        _ => 256,
    }
}

/// Shared memory of a warp.
const fn ring_bytes(dtype: DType) -> usize {
    let words = staged_words(dtype, step_columns(dtype));
    let words = if matches!(dtype, DType::F16 | DType::BF16) { words + 4 } else { words | 1 };
    STAGES * TILE_OUTPUTS * 16 * words
}

/// 16-byte words that hold `columns` columns of a row, wherever their blocks begin.
pub(crate) const fn staged_words(dtype: DType, columns: usize) -> usize {
    let bytes = dtype.bytes_of(columns);
    let grain = if bytes.trailing_zeros() < 4 { 1 << bytes.trailing_zeros() } else { 16 };
    (16 - grain + bytes).div_ceil(16)
}

/// A tile of `tiled_product`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows of x.
    pub(crate) rows: usize,
    /// Outputs.
    pub(crate) outputs: usize,
    /// Threads of a block.
    pub(crate) threads: usize,
}

impl Shape {
    /// `Shape<64, 64, 32, 32>`
    pub(crate) const SMALL: Self = Self { rows: 64, outputs: 64, threads: 128 };
    /// `Shape<128, 128, 64, 32>`
    pub(crate) const LARGE: Self = Self { rows: 128, outputs: 128, threads: 256 };

    /// Dynamic shared memory of a block, bytes: rings of tiles of x and of the weight, and of its stored bytes; at the
    /// end the sums lie there.
    pub(crate) const fn shared_bytes(self, dtype: DType, activations: Element) -> usize {
        let sums = self.rows * (self.outputs + 8) * 4;
        let tiles = match activations {
            Element::F32 => 32 * (self.rows + 4 + self.outputs + 4) * 4,
            Element::BF16 => {
                let (depth_bytes, stages) = (128, 3);
                let weights = match dtype {
                    DType::BF16 => stages * depth_bytes,
                    DType::F16 => 2 * depth_bytes,
                    DType::F32 => 2 * 2 * depth_bytes,
                    _ => {
                        let block = dtype.block_elements();
                        let staged = staged_words(dtype, if block > 128 { block } else { 128 }) | 1;
                        2 * depth_bytes + 2 * 16 * staged
                    }
                };
                stages * depth_bytes * self.rows + weights * self.outputs
            }
        };
        if tiles > sums { tiles } else { sums }
    }
}

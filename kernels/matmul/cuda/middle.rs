//! Linear layers of some rows with quantized weights, on GPUs of compute capability 9.0.

use super::{Columns, DECODED_ROWS_MIN, Results};
use crate::{
    DType, Result,
    cuda::{
        Argument, ByteMatrix, ClustersAtOnce, Cuda, Grid, MappedMatrix, Part, Pointer, Source, Tensor, TensorMap,
        staged_words, step_columns,
    },
};

const SOURCE: Source = Source { name: "middle_90a", text: include_str!("../middle_90a/cuda.cu") };

/// Fewer rows are read by blocks that decode for themselves.
pub(super) const ROWS_MIN: usize = 17;

// As in the source.
const PAIRS: usize = 128;
const THREADS: u32 = 640;
const ROOM: usize = 225 << 10;
const X_STAGES_MOST: usize = 8;
const X_ROW_BYTES: usize = 128;
const ALIGNMENT: usize = 1024;

/// How a product's work is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Middle {
    /// Rows of a block: 32, 64 or 128.
    block_rows: usize,
    /// Blocks for all rows, and for all outputs.
    row_blocks: usize,
    tiles: usize,
    /// Steps of a tile, and of those each share of it, but for the last.
    steps: usize,
    steps_each: usize,
}

/// What the kernel copies in boxes: as `Boxes` in the source.
#[derive(Clone, Copy)]
#[repr(C)]
struct Boxes {
    x: TensorMap,
    firsts: TensorMap,
    seconds: TensorMap,
}

/// Whether there is a kernel for weights of this format.
pub(super) fn has_kernel(dtype: DType) -> bool {
    dtype.is_quantized() && dtype != DType::TQ1_0
}

impl Middle {
    /// One block for each tile. None where there is no such kernel, or it is not for so many rows.
    fn new(dtype: DType, outputs: usize, inputs: usize, rows: usize) -> Option<Self> {
        let is_for = has_kernel(dtype) && outputs.is_multiple_of(2) && (ROWS_MIN..DECODED_ROWS_MIN).contains(&rows);
        let block_rows = rows.next_power_of_two().clamp(32, 128);
        let (row_blocks, tiles) = (rows.div_ceil(block_rows), outputs.div_ceil(2 * PAIRS));
        let steps = inputs.div_ceil(step_columns(dtype)).max(1);
        is_for.then_some(Self { block_rows, row_blocks, tiles, steps, steps_each: steps })
    }

    /// As many blocks for each tile as take the shortest time together, where so many clusters run at once.
    fn shared_out(self, clusters: &ClustersAtOnce) -> Self {
        let Self { block_rows, row_blocks, tiles, steps, .. } = self;
        // In quarters of what a step takes: a block is as long as one and a half more until it has begun and handed out its
        // sums, and somewhat longer, the more rows there are, to add those of others.
        let cost = |shares: usize, at_once: usize| {
            let adding = if shares > 1 { 1 + block_rows / 64 } else { 0 };
            (row_blocks * tiles).div_ceil(at_once) * (4 * steps.div_ceil(shares) + 6 + adding)
        };
        let possible = (1..=steps).zip(clusters).filter(|(_, at_once)| **at_once > 0);
        let shares = possible.min_by_key(|(shares, at_once)| cost(*shares, **at_once)).map_or(1, |(shares, _)| shares);
        Self { steps_each: steps.div_ceil(shares), ..self }
    }

    fn grid(&self, dtype: DType) -> Grid {
        let blocks = [self.row_blocks, self.tiles, self.shares()].map(|count| count as u32);
        Grid { blocks, threads: THREADS, shared_bytes: self.shared_bytes(dtype) as u32 }
    }

    /// Blocks that share a tile: a cluster.
    fn shares(&self) -> usize {
        self.steps.div_ceil(self.steps_each)
    }

    fn entry(&self) -> &'static str {
        match self.block_rows {
            32 => "middle_32",
            64 => "middle_64",
            _ => "middle_128",
        }
    }

    fn shared_bytes(&self, dtype: DType) -> usize {
        let pitch = pitch(dtype);
        let weights = if pitch <= 176 { 3 } else { 2 } * 2 * PAIRS * pitch;
        let x_part = self.block_rows * X_ROW_BYTES;
        let x = ((ROOM - weights) / x_part).min(X_STAGES_MOST) * x_part;
        weights + x + ALIGNMENT
    }
}

/// From a row of stored weights to the next in shared memory.
fn pitch(dtype: DType) -> usize {
    16 * (staged_words(dtype, step_columns(dtype)) | 1)
}

impl Cuda {
    /// How blocks share out a product; none where other kernels are for it.
    pub(super) fn middle(&self, part: &Part, inputs: usize, rows: usize) -> Result<Option<Middle>> {
        let Some(alone) = Middle::new(part.dtype, part.rows, inputs, rows).filter(|_| self.has_warpgroups()) else {
            return Ok(None);
        };
        let clusters = self.clusters_at_once((&SOURCE, part.dtype), alone.entry(), alone.grid(part.dtype))?;
        Ok(Some(alone.shared_out(&clusters)))
    }

    /// # Safety
    /// As for `product_of_part`.
    pub(super) unsafe fn product_by_warpgroups(
        &self,
        x: &Tensor,
        part: &Part,
        columns: Columns,
        middle: &Middle,
    ) -> Result<()> {
        let Columns { y, stride, bias, results } = columns;
        let boxes = Boxes::new(x, part, &results, middle)?;
        let mut arguments: Vec<Argument> = vec![
            y.into(),
            bias.into(),
            x.rows().into(),
            part.rows.into(),
            middle.steps.into(),
            middle.steps_each.into(),
            stride.into(),
        ];
        arguments.extend(results.arguments());
        arguments.push(Argument::of(&boxes));
        // SAFETY: the caller's promise; boxes lie within `x` and the part.
        unsafe { self.launch_for((&SOURCE, part.dtype), middle.entry(), middle.grid(part.dtype), &mut arguments) }
    }
}

impl Boxes {
    /// Rows of pairs lie as `StoredRows` in matmul/cuda.cu has them.
    fn new(x: &Tensor, part: &Part, results: &Results, middle: &Middle) -> Result<Self> {
        let pairs = part.rows / 2;
        let (to_next, to_second) = match results {
            Results::Gated(_) => (1, pairs),
            Results::Activations | Results::Floats => (2, 1),
        };
        let rows_of_pairs = |first: Pointer| {
            let matrix = ByteMatrix { first, rows: pairs, row_bytes: part.stride, stride: to_next * part.stride };
            TensorMap::of_bytes(matrix, PAIRS, pitch(part.dtype))
        };
        let rows = MappedMatrix { first: x.pointer(), rows: x.rows(), columns: x.columns() };
        Ok(Self {
            x: TensorMap::new(rows, middle.block_rows)?,
            firsts: rows_of_pairs(part.pointer())?,
            seconds: rows_of_pairs(part.pointer().offset(to_second * part.stride))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        matmul::{ROUNDED, check_parts, tolerance},
        samples::{Samples, Tested, formats},
    };

    /// Many steps, several tiles, and tiles that blocks share; what is left over at each end.
    #[test]
    fn large_products_conform() {
        for gpu in Cuda::kinds().into_iter().filter(Cuda::has_warpgroups) {
            let mut samples = Samples::new(7);
            for dtype in formats().filter(|dtype| has_kernel(*dtype)) {
                for (rows, outputs, columns) in [(17, 2, 32), (33, 258, 1184), (65, 514, 96), (129, 130, 2080)] {
                    let columns = usize::next_multiple_of(columns, dtype.block_elements());
                    let parts = vec![samples.matrix(dtype, outputs, columns)];
                    check_parts(&gpu, &mut samples, parts, rows, gpu.tolerance(tolerance(columns)).min(ROUNDED));
                }
            }
        }
    }

    /// How many blocks share a tile, on the 132 multiprocessors of an H100.
    #[test]
    fn work_is_shared_out() {
        let shares = |rows: usize, inputs: usize, outputs: usize| {
            let middle =
                Middle::new(DType::WInt4, outputs, inputs, rows)?.shared_out(&[132, 66, 42, 30, 24, 20, 14, 14]);
            Some((middle.block_rows, middle.row_blocks, middle.tiles, middle.shares()))
        };
        assert_eq!(shares(17, 8192, 28_672), Some((32, 1, 112, 1)));
        assert_eq!(shares(64, 4096, 4096), Some((64, 1, 16, 6)));
        assert_eq!(shares(255, 4096, 4096), Some((128, 2, 16, 3)));
        assert_eq!(shares(32, 8192, 1280), Some((32, 1, 5, 8)));
        assert_eq!(shares(16, 4096, 4096), None, "few rows");
        assert_eq!(shares(256, 4096, 4096), None, "many");
        assert_eq!(shares(64, 4096, 4095), None, "outputs that are no pairs");
    }

    /// A GPU too small for any cluster.
    #[test]
    fn without_clusters_tiles_are_not_shared() {
        let middle = Middle::new(DType::WInt4, 256, 4096, 17).expect("a kernel for it");
        assert_eq!(middle.shared_out(&[4, 0, 0, 0, 0, 0, 0, 0]).shares(), 1);
    }
}

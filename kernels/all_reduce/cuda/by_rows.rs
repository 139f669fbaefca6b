//! The all-reduce with the norm behind it in which each rank keeps the residual stream of its own rows, and what makes
//! that stream whole again for whoever needs it.

use super::THREADS;
use crate::{
    Backend, Result,
    all_reduce::NormAfter,
    cuda::{AREA_BYTES, Argument, BLOCKS, CLUSTER_BLOCKS_MAX, Cuda, Grid, Peers, RowsHere, Source, Tensor},
};

const SOURCE: Source = Source { name: "by_rows", text: include_str!("../by_rows/cuda.cu") };

/// How rows are shared out among blocks: groups of as many as there are ranks, of which each rank has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByRows {
    groups: usize,
    /// Blocks of a group.
    pieces: usize,
    /// Columns of a block, a multiple of 8.
    piece: usize,
}

impl ByRows {
    /// Of rows of `columns` elements, a multiple of 8, of so many bytes; none where areas are too small for them, or too
    /// few.
    pub(super) fn new(rows: usize, columns: usize, ranks: usize, element_bytes: usize) -> Option<Self> {
        /// Below so many columns, more blocks of a row would only be more meetings.
        const PIECE_LEAST: usize = 1024;
        let groups = rows.div_ceil(ranks);
        let suits = |&pieces: &usize| groups * pieces <= BLOCKS && (pieces == 1 || columns >= pieces * PIECE_LEAST);
        let pieces = (0..=CLUSTER_BLOCKS_MAX.ilog2()).rev().map(|power| 1 << power).find(suits)?;
        let piece = columns.div_ceil(pieces).next_multiple_of(8);
        (ranks * piece * element_bytes <= AREA_BYTES).then_some(Self { groups, pieces: columns.div_ceil(piece), piece })
    }

    fn grid(&self) -> Grid {
        /// What blocks of a cluster read of each other: two floats.
        const SHARED_BYTES: u32 = 8;
        Grid { blocks: [self.groups as u32, 1, self.pieces as u32], threads: THREADS, shared_bytes: SHARED_BYTES }
    }
}

impl Cuda {
    /// # Safety
    /// `residual`, `x` and `y` are of one shape, with a weight per column, and `plan` was made for it.
    pub(super) unsafe fn reduce_by_rows(
        &self,
        (peers, plan): (&Peers, ByRows),
        y: &Tensor,
        residual: &mut Tensor,
        x: &Tensor,
        NormAfter { scale, weight, eps }: &NormAfter<Tensor>,
    ) -> Result<()> {
        let peers = peers.argument();
        let arguments = &mut [
            y.into(),
            // Who has all rows has its own.
            residual.pointer().into(),
            x.into(),
            (*weight).into(),
            Argument::of(&peers),
            x.rows().into(),
            x.columns().into(),
            plan.piece.into(),
            (*scale).into(),
            (*eps).into(),
        ];
        // SAFETY: the caller's promise, and a block's pieces of a group's rows fit into its area.
        unsafe { self.launch(&SOURCE, "by_rows_norm", plan.grid(), arguments) }?;
        residual.set_rows_here(RowsHere::Own);
        Ok(())
    }

    /// Gets what others have of the residual stream, where each rank has its own rows: all ranks come here.
    pub(crate) fn collect_rows(&self, residual: &Tensor) -> Result<()> {
        if residual.rows_here() == RowsHere::All {
            return Ok(());
        }
        let (rows, columns, ranks) = (residual.rows(), residual.columns(), self.group().world_size());
        let plan = ByRows::new(rows, columns, ranks, self.act().bytes()).expect("rows that were shared out before");
        let peers = self.peers().expect("those with whom they were").argument();
        let pointer = residual.pointer();
        let arguments = &mut [pointer.into(), Argument::of(&peers), rows.into(), columns.into(), plan.piece.into()];
        // SAFETY: a tensor of f32, of whose own row a block's piece fits into its area: there was room for as many of
        // activations as there are ranks, two at least.
        unsafe { self.launch(&SOURCE, "collect_rows", plan.grid(), arguments) }?;
        residual.set_rows_here(RowsHere::All);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        all_reduce::AllReduce,
        cuda::{Activations, CudaConfig},
        memory::Memory,
        rms_norm::{self, RmsNorm},
        samples::{Samples, Tested, assert_close},
        select_rows::SelectRows,
    };

    #[test]
    fn rows_are_shared_out() {
        let shared = |rows, columns, ranks| ByRows::new(rows, columns, ranks, 2);
        let plan = |groups, pieces, piece| Some(ByRows { groups, pieces, piece });
        assert_eq!(shared(128, 8192, 8), plan(16, 4, 2048));
        assert_eq!(shared(17, 8192, 8), plan(3, 8, 1024));
        assert_eq!(shared(256, 8192, 8), plan(32, 2, 4096));
        assert_eq!(shared(41, 8200, 4), plan(11, 4, 2056));
        assert_eq!(shared(200, 1000, 4), plan(50, 1, 1000));
        assert_eq!(shared(257, 8192, 8), None, "an area has no room for eight rows");
        assert_eq!(shared(300, 1000, 4), None, "more groups than areas");
    }

    /// What others have of the stream comes to whoever reads it whole.
    #[test]
    fn whoever_reads_the_stream_has_all_rows() {
        const EPS: f32 = 1e-5;
        let (ranks, rows, columns) = (3, 70, 4096);
        if crate::cuda::find(ranks).is_err() {
            return;
        }
        let check = |gpu: &Cuda| {
            if !gpu.has_clusters() {
                return;
            }
            let values = Samples::new(1).floats(rows * columns);
            let ones = vec![1.0; columns];
            let weight = gpu.vector(&ones).expect("memory");
            let branch = || gpu.tensor(rows, columns, &values).expect("memory");
            let stream = || {
                let mut residual = gpu.residual(rows, columns, &values);
                for _ in 0..2 {
                    let norm = NormAfter { scale: 0.5, weight: &weight, eps: EPS };
                    gpu.all_reduce_add_rms_norm(&mut residual, branch(), norm).expect("all are there");
                    assert_eq!(residual.rows_here(), RowsHere::Own);
                }
                residual
            };
            let to_host = |tensor: &Tensor| gpu.to_host(tensor).expect("a copy");
            // Half of it from each of three ranks, twice.
            let whole: Vec<f32> = values.iter().map(|value| 4.0 * value).collect();
            let row = |values: &[f32], row: usize| values[row * columns..][..columns].to_vec();
            let normed = |values: &[f32]| -> Vec<f32> {
                values.chunks_exact(columns).flat_map(|row| rms_norm::reference(row, &ones, EPS)).collect()
            };

            let selected = gpu.select_rows(&stream(), &[69, 0, 34]).expect("memory");
            let expected = [69, 0, 34].map(|at| row(&whole, at)).concat();
            assert_close(&to_host(&selected), &expected, 1e-6, "rows of the stream");
            let y = gpu.rms_norm(&stream(), &weight, EPS).expect("a norm");
            assert_close(&to_host(&y), &normed(&whole), 1e-5, "the stream's norm");
            let mut residual = stream();
            let y = gpu.add_rms_norm(&mut residual, &branch(), 1.0, &weight, EPS).expect("a norm");
            let sum: Vec<f32> = values.iter().map(|value| 5.0 * value).collect();
            assert_close(&to_host(&residual), &sum, 1e-6, "what was added to the stream");
            assert_close(&to_host(&y), &normed(&sum), 1e-5, "its norm");
        };
        let config = CudaConfig { activations: Activations::F32, ..CudaConfig::default() }.with_test_cache();
        Cuda::each_of(&config, ranks, check).expect("GPUs");
    }
}

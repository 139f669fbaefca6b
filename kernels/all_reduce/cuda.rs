//! All-reduce between GPUs: through memory that all have mapped where the message is small, by NCCL where it is large.
//!
//! Every rank ends with the same bits. Of small messages the order of the sum is that of the ranks; of large ones it is
//! NCCL's.

mod by_rows;

use self::by_rows::ByRows;
use super::{AllReduce, NormAfter};
use crate::{
    Backend, Result,
    cuda::{AREA_BYTES, Argument, BLOCKS, Cuda, Element, Grid, Peers, Source, Tensor},
    rms_norm::RmsNorm,
};

const SOURCE: Source = Source { name: "all_reduce", text: include_str!("cuda.cu") };

/// Threads of a block.
const THREADS: u32 = 512;

/// The largest message that every rank reads from every other, bytes. Beyond it the bytes that cross the links count, and
/// beyond what areas hold NCCL is faster. Published crossings on eight GPUs joined by NVLink lie between 128 and 512 KiB
/// (vLLM's and SGLang's own kernels of this kind).
fn direct_bytes_max(ranks: usize) -> usize {
    if ranks <= 2 {
        BLOCKS * AREA_BYTES
    } else if ranks <= 4 {
        512 << 10
    } else {
        256 << 10
    }
}

impl AllReduce for Cuda {
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        match self.peers().filter(|_| x.elements() > 0 && x.bytes() <= BLOCKS * AREA_BYTES) {
            Some(peers) => self.reduce_among(peers, x),
            None => self.reduce_by_nccl(x),
        }
    }

    fn all_reduce_add_rms_norm(&self, residual: &mut Tensor, mut x: Tensor, norm: NormAfter<Tensor>) -> Result<Tensor> {
        let (rows, columns) = (x.rows(), x.columns());
        assert_eq!((residual.element(), x.element()), (Element::F32, self.act()), "a residual and a branch");
        assert_eq!((residual.rows(), residual.columns()), (rows, columns), "of the same shape");
        assert_eq!((norm.weight.elements(), norm.weight.element()), (columns, Element::F32), "a weight per column");
        let way = self.peers().zip(self.way_with_norm(&x));
        let Some((peers, way)) = way else {
            self.all_reduce(&mut x)?;
            return self.add_rms_norm(residual, &x, norm.scale, norm.weight, norm.eps);
        };
        let y = self.activations(rows, columns)?;
        match way {
            // SAFETY: three tensors of one shape, for which the way was made.
            Way::ByRows(plan) => unsafe { self.reduce_by_rows((peers, plan), &y, residual, &x, &norm) }?,
            Way::AllOfARow(entry) => {
                self.collect_rows(residual)?;
                let peers = peers.argument();
                let arguments = &mut [
                    (&y).into(),
                    (&*residual).into(),
                    (&x).into(),
                    norm.weight.into(),
                    Argument::of(&peers),
                    rows.into(),
                    columns.into(),
                    norm.scale.into(),
                    norm.eps.into(),
                ];
                let grid = Grid { blocks: [rows.min(BLOCKS) as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
                // SAFETY: three tensors of one shape, and a block's rows fit into its area.
                unsafe { self.launch(&SOURCE, entry, grid, arguments) }?;
            }
        }
        Ok(y)
    }
}

/// How an all-reduce is done with the norm behind it.
enum Way {
    /// Each rank adds up and normalises its own rows.
    ByRows(ByRows),
    /// All ranks normalise all rows, each by one block of the kernel of this name.
    AllOfARow(&'static str),
}

impl Cuda {
    /// None where the norm is a kernel of its own.
    fn way_with_norm(&self, x: &Tensor) -> Option<Way> {
        let (rows, columns, ranks) = (x.rows(), x.columns(), self.group().world_size());
        if !columns.is_multiple_of(8) || x.elements() == 0 {
            return None;
        }
        let is_direct = x.bytes() <= direct_bytes_max(ranks);
        let by_rows = ByRows::new(rows, columns, ranks, x.element().bytes());
        if let Some(plan) = by_rows.filter(|_| !is_direct && self.has_clusters()) {
            return Some(Way::ByRows(plan));
        }
        let fits = rows.div_ceil(BLOCKS) * columns * x.element().bytes() <= AREA_BYTES;
        fits.then_some(Way::AllOfARow(if is_direct { "direct_norm" } else { "by_parts_norm" }))
    }

    fn reduce_by_nccl(&self, x: &mut Tensor) -> Result<()> {
        if x.elements() == 0 {
            return Ok(());
        }
        self.with_communicator(|communicator| {
            // SAFETY: a tensor's elements, which its maker enqueued.
            unsafe { communicator.all_reduce(self.driver(), x.pointer(), x.elements(), x.element()) }
        })
    }

    fn reduce_among(&self, peers: &Peers, x: &mut Tensor) -> Result<()> {
        /// Below so many elements for each thread, more blocks would only be more meetings.
        const ELEMENTS_PER_THREAD: usize = 8;
        let is_direct = x.bytes() <= direct_bytes_max(self.group().world_size());
        let entry = match (is_direct, x.element() == self.act()) {
            (true, true) => "direct",
            (true, false) => "direct_residual",
            (false, true) => "by_parts",
            (false, false) => "by_parts_residual",
        };
        let blocks = x.elements().div_ceil(THREADS as usize * ELEMENTS_PER_THREAD).min(BLOCKS);
        let slice = x.elements().div_ceil(blocks).next_multiple_of(8);
        let grid = Grid { blocks: [x.elements().div_ceil(slice) as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
        let peers = peers.argument();
        let arguments = &mut [(&*x).into(), Argument::of(&peers), slice.into(), x.elements().into()];
        // SAFETY: a tensor's elements; a slice fits into an area, for all of them fit into all areas.
        unsafe { self.launch(&SOURCE, entry, grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::{Activations, CudaConfig},
        memory::Memory,
        samples::{Samples, Tested, assert_close},
    };

    #[test]
    fn conforms() {
        for (activations, nccl_only) in
            [(Activations::F32, false), (Activations::BF16, false), (Activations::BF16, true)]
        {
            Cuda::in_groups(CudaConfig { activations, nccl_only, ..CudaConfig::default() }, |gpu| {
                assert_eq!(gpu.peers().is_some(), !nccl_only, "GPUs that reach each other");
                crate::all_reduce::check_among(gpu);
            });
        }
    }

    /// Beyond what is read directly, and beyond what areas hold.
    #[test]
    fn long_messages_go_by_parts_and_longer_ones_by_nccl() {
        if crate::cuda::find(3).is_err() {
            return;
        }
        let check = |gpu: &Cuda| {
            for elements in [200_003, BLOCKS * AREA_BYTES / 4 + 1] {
                let part = |rank: usize| gpu.stored(Samples::new((rank + elements) as u64).floats(elements));
                let parts: Vec<Vec<f32>> = (0..3).map(part).collect();
                let mut x = gpu.tensor(1, elements, &parts[gpu.group().rank()]).expect("memory");
                gpu.all_reduce(&mut x).expect("all are there");
                let what = format!("{elements} elements");
                assert_close(&gpu.to_host(&x).expect("a copy"), &super::super::reference(&parts), 1e-6, &what);
            }
        };
        let config = CudaConfig { activations: Activations::F32, ..CudaConfig::default() }.with_test_cache();
        Cuda::each_of(&config, 3, check).expect("GPUs");
    }
}

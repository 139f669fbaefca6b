//! All-gather between GPUs: NCCL's, which puts one rank's tensor after the other's, and then row by row.

use super::AllGather;
use crate::{
    Backend, Result,
    cuda::{Cuda, Grid, Source, Tensor},
};

const SOURCE: Source = Source { name: "all_gather", text: include_str!("cuda.cu") };

impl AllGather for Cuda {
    fn all_gather(&self, x: Tensor) -> Result<Tensor> {
        match self.group().world_size() {
            1 => Ok(x),
            ranks => self.gather_columns(&x, ranks),
        }
    }
}

impl Cuda {
    /// The same among several ranks.
    pub(crate) fn gather_columns(&self, x: &Tensor, ranks: usize) -> Result<Tensor> {
        let gathered = self.alike(x, x.rows(), ranks * x.columns())?;
        if x.elements() == 0 {
            return Ok(gathered);
        }
        self.with_communicator(|communicator| {
            // SAFETY: there is room for every rank's elements.
            unsafe {
                communicator.all_gather(self.driver(), gathered.pointer(), x.pointer(), x.elements(), x.element())
            }
        })?;
        self.side_by_side(gathered, ranks)
    }

    /// `[rows, ranks × columns]` of what lies one after the other: each rank's `[rows, columns]`.
    pub(crate) fn side_by_side(&self, gathered: Tensor, ranks: usize) -> Result<Tensor> {
        let rows = gathered.rows();
        if rows <= 1 {
            return Ok(gathered);
        }
        let ordered = self.alike(&gathered, rows, gathered.columns())?;
        let words = gathered.columns() / ranks * gathered.element().bytes() / 2;
        let arguments = &mut [(&ordered).into(), (&gathered).into(), ranks.into(), rows.into(), words.into()];
        let blocks = (ranks * rows * words).div_ceil(1024).min(4096) as u32;
        let grid = Grid { blocks: [blocks, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: both have ranks × rows × columns elements.
        unsafe { self.launch(&SOURCE, "side_by_side", grid, arguments) }?;
        Ok(ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Activations, CudaConfig};

    #[test]
    fn conforms() {
        for activations in [Activations::F32, Activations::BF16] {
            let cache = Some(std::env::temp_dir().join("shardwire-test-kernels"));
            let config = CudaConfig { activations, cache, ..CudaConfig::default() };
            for ranks in (2..=4).filter(|&ranks| crate::cuda::find(ranks).is_ok()) {
                Cuda::each_of(&config, ranks, crate::all_gather::check_among).expect("GPUs");
            }
        }
    }
}

//! All-gather between GPUs: NCCL's, which puts one rank's tensor after the other's, and then row by row.

use super::AllGather;
use crate::{
    Result,
    cuda::{Cuda, Grid, Source, Tensor},
};

const SOURCE: Source = Source { name: "all_gather", text: include_str!("cuda.cu") };

impl AllGather for Cuda {
    fn all_gather(&self, x: Tensor) -> Result<Tensor> {
        let ranks = crate::Backend::group(self).world_size();
        if ranks == 1 {
            return Ok(x);
        }
        let gathered = self.alike(&x, x.rows(), ranks * x.columns())?;
        if x.elements() == 0 {
            return Ok(gathered);
        }
        self.with_communicator(|communicator| {
            // SAFETY: there is room for every rank's elements.
            unsafe {
                communicator.all_gather(self.driver(), gathered.pointer(), x.pointer(), x.elements(), x.element())
            }
        })?;
        if x.rows() == 1 {
            return Ok(gathered);
        }
        let ordered = self.alike(&x, x.rows(), ranks * x.columns())?;
        let words = x.columns() * x.element().bytes() / 2;
        let arguments = &mut [(&ordered).into(), (&gathered).into(), ranks.into(), x.rows().into(), words.into()];
        let blocks = (ranks * x.rows() * words).div_ceil(1024).min(4096) as u32;
        let grid = Grid { blocks: [blocks, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: both have ranks × rows × columns elements.
        unsafe { self.launch(&SOURCE, "side_by_side", grid, arguments) }?;
        Ok(ordered)
    }
}

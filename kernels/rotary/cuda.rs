//! Rotary embedding on a GPU.

use super::{Pairing, Rotary};
use crate::{
    Heads, Result,
    cuda::{Cuda, DeviceBatch, Grid, Region, Source, Tensor},
};

const SOURCE: Source = Source { name: "rotary", text: include_str!("cuda.cu") };

/// By which angles heads are turned.
pub struct Angles {
    /// `f32 [pairs]`
    pub(crate) frequencies: Region,
    pub(crate) pairs: usize,
    pub(crate) magnitude: f32,
    pub(crate) pairing: Pairing,
}

impl Rotary for Cuda {
    fn rotary(&self, qkv: &mut Tensor, heads: &Heads, angles: &Angles, batch: &DeviceBatch) -> Result<()> {
        /// Threads of a block, where there are not more pairs.
        const THREADS: usize = 256;
        assert_eq!((qkv.columns(), qkv.element()), (heads.qkv_columns(), self.act()), "rows hold the heads");
        assert_eq!(qkv.rows(), batch.host.positions.len(), "a row per token");
        assert!(2 * angles.pairs <= heads.dim, "no more angles than half a head");
        if angles.pairs == 0 {
            return Ok(());
        }
        let turned = heads.query + heads.kv;
        let heads_at_once = (THREADS / angles.pairs).clamp(1, turned);
        let arguments = &mut [
            (&*qkv).into(),
            angles.frequencies.pointer().into(),
            batch.positions().into(),
            qkv.columns().into(),
            turned.into(),
            heads.dim.into(),
            angles.pairs.into(),
            (angles.pairing == Pairing::Interleaved).into(),
            angles.magnitude.into(),
        ];
        let threads = (heads_at_once * angles.pairs) as u32;
        let grid = Grid { blocks: [qkv.rows() as u32, 1, 1], threads, shared_bytes: 0 };
        // SAFETY: rows hold the query and key heads first, each of at least twice as many elements as there are pairs;
        // there is a position per row.
        unsafe { self.launch(&SOURCE, "rotary", grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::rotary::check(&gpu);
        }
    }
}

//! Every rank's columns side by side, on every rank.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::samples::{Samples, Tested};
use crate::{Result, memory::Memory};

/// See the module.
pub trait AllGather: Memory {
    /// `[rows, ranks × columns]` from each rank's `x [rows, columns]`, rank 0's columns first.
    fn all_gather(&self, x: Self::Tensor) -> Result<Self::Tensor>;
}

/// What [`AllGather::all_gather`] means: row by row, the rows of all `parts` (one per rank) one after the other.
pub(crate) fn reference(parts: &[Vec<f32>], columns: usize) -> Vec<f32> {
    let rows = parts[0].len().checked_div(columns).unwrap_or(0);
    (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part[row * columns..][..columns].to_vec())).collect()
}

/// All ranks together: columns of many shapes.
pub(crate) fn check_among<B: Tested>(device: &B) {
    let (rank, ranks) = (device.group().rank(), device.group().world_size());
    for (rows, columns) in [(0, 4), (1, 2), (5, 8), (3, 2576), (70, 34)] {
        let part = |rank: usize| device.stored(Samples::new((rank * 7 + rows) as u64).floats(rows * columns));
        let parts: Vec<Vec<f32>> = (0..ranks).map(part).collect();
        let x = device.tensor(rows, columns, &parts[rank]).expect("memory");
        let gathered = device.all_gather(x).expect("all are there");
        let what = format!("{}: {rows} × {columns} of {ranks} ranks", device.name());
        assert_eq!(device.to_host(&gathered).expect("a copy"), reference(&parts, columns), "{what}");
    }
}

//! Every rank's columns side by side, on every rank.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{Result, memory::Memory};

/// See the module.
pub trait AllGather: Memory {
    /// `[rows, ranks × columns]` from each rank's `x [rows, columns]`, rank 0's columns first.
    fn all_gather(&self, x: Self::Tensor) -> Result<Self::Tensor>;
}

/// What [`AllGather::all_gather`] means: row by row, the rows of all `parts` (one per rank) one after the other.
#[cfg(test)]
pub(crate) fn reference(parts: &[Vec<f32>], columns: usize) -> Vec<f32> {
    let rows = parts[0].len().checked_div(columns).unwrap_or(0);
    (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part[row * columns..][..columns].to_vec())).collect()
}

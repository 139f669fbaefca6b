//! Takes some rows of a tensor: those whose logits or hidden states are wanted.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::samples::Tested;
use crate::{Result, memory::Memory};

/// See the module.
pub trait SelectRows: Memory {
    /// `[rows.len(), columns]` of `x [tokens, columns]`: its rows of these indices, in their order.
    fn select_rows(&self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor>;
}

/// Compares a device's choice with the plain one, of activations and of the residual stream.
pub(crate) fn check<B: Tested>(device: &B) {
    for (rows, columns, selected) in [
        (1, 5, vec![]),
        (1, 3, vec![0]),
        (9, 33, vec![0, 3, 8]),
        (9, 34, vec![2, 2]),
        (9, 7, (2..8).collect()),
        (40, 576, (5..40).rev().collect()),
    ] {
        let x = device.stored((0..rows * columns).map(|value| value as f32).collect());
        let expected: Vec<f32> =
            selected.iter().flat_map(|&row: &u32| &x[row as usize * columns..][..columns]).copied().collect();
        let tensors = [device.tensor(rows, columns, &x).expect("memory"), device.residual(rows, columns, &x)];
        for tensor in tensors {
            let found = device.select_rows(&tensor, &selected).expect("rows");
            assert_eq!(device.to_host(&found).expect("a copy"), expected, "{rows} × {columns}");
        }
    }
}

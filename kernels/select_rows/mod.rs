//! Keeps the rows whose logits are wanted.

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait SelectRows: Memory {
    /// `[sampled rows, columns]` of `x [tokens, columns]`, as the batch's `sampled_rows` say.
    fn select_rows(&self, x: &Self::Tensor, batch: &Self::Batch) -> Result<Self::Tensor>;
}

/// Compares a device's choice with the plain one.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    for (rows, columns, sampled) in
        [(1, 5, vec![]), (1, 3, vec![0]), (9, 33, vec![0, 3, 8]), (40, 576, (5..40).collect())]
    {
        let x: Vec<f32> = (0..rows * columns).map(|value| value as f32).collect();
        let expected: Vec<f32> =
            sampled.iter().flat_map(|&row: &u32| &x[row as usize * columns..][..columns]).copied().collect();
        let batch = crate::Batch { sampled_rows: sampled, ..crate::Batch::default() };
        let batch = device.batch(batch).expect("memory");
        let tensor = device.tensor(rows, columns, &x).expect("memory");
        let selected = device.select_rows(&tensor, &batch).expect("rows");
        assert_eq!(device.to_host(&selected).expect("a copy"), expected, "{rows} × {columns}");
    }
}

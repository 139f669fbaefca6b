//! Steps that are like one another: recorded once, then repeated.
//!
//! Decoding is hundreds of short kernels per step, the same ones at each; starting them one by one takes a GPU's host
//! longer than the GPU takes to compute. Recorded as a graph, they are started by one call.

mod cpu;
mod cuda;

pub(crate) use cuda::Recordings;

use crate::{Batch, Result, memory::Memory};

/// See the module.
pub trait Repeat: Memory {
    /// What `compute` makes of `batch`: a tensor whose first rows are the batch's; more may follow, which mean nothing.
    /// `compute` may be called with more sequences than `batch` has, with [its queries apart](Batch::apart), or not at all,
    /// if it was recorded before; so it must do the same each time but for what the batch says, and keep no tensor.
    fn repeat(
        &self,
        batch: Batch,
        compute: &mut dyn FnMut(&Self::Batch) -> Result<Self::Tensor>,
    ) -> Result<Self::Tensor>;
}

/// A computation that is repeated with other numbers gives what those numbers make; batches of several sizes, each
/// often enough to be computed, recorded and repeated, and among them one of a sequence with several queries.
pub(crate) fn check<B: crate::samples::Tested>(device: &B) {
    use crate::samples::{Samples, assert_close};
    const COLUMNS: usize = 32;
    let mut samples = Samples::new(3);
    let values = samples.floats(100 * COLUMNS);
    let table = crate::Matrix::from_f32(&values, 100, COLUMNS);
    let table = device.weight(vec![table]).expect("a weight");
    let norm = device.vector(&[0.5; COLUMNS]).expect("memory");
    for round in 0..4 {
        for (count, context, together) in
            [(1, 5_u32, false), (3, 5, false), (5, 300, false), (4, 300, false), (3, 5, true)]
        {
            let tokens: Vec<u32> = (0..count).map(|_| samples.below(100) as u32).collect();
            let table_of_blocks: Vec<u32> = (0..context.div_ceil(16)).collect();
            let (positions, sequences) = match together {
                true => ((context - count as u32..context).collect(), 1),
                false => (vec![context - 1; count], count),
            };
            let batch = Batch {
                tokens: tokens.clone(),
                positions,
                slot_mapping: vec![0; count],
                query_starts: (0..=sequences).map(|sequence| (sequence * count / sequences) as u32).collect(),
                context_lengths: vec![context; sequences],
                block_tables: vec![table_of_blocks; sequences],
            };
            let mut compute = |batch: &B::Batch| {
                let residual = device.embed(&table, 0, 1.0, batch)?;
                device.rms_norm(&residual, &norm, 1e-5)
            };
            let found = device.repeat(batch, &mut compute).expect("rows");
            let found = device.rows_to_host(&found, 0..count).expect("a copy");
            let row = |&token: &u32| &values[token as usize * COLUMNS..][..COLUMNS];
            let normed = |token| crate::rms_norm::reference(row(token), &[0.5; COLUMNS], 1e-5);
            let expected: Vec<f32> = tokens.iter().flat_map(normed).collect();
            let what = format!("{}: {count} queries of {sequences} sequences, round {round}", device.name());
            assert_close(&found, &expected, device.tolerance(2e-6), &what);
        }
    }
}

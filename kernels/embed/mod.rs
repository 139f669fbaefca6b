//! Token ids to hidden states: rows of the embedding table, split over ranks by vocabulary.

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

use crate::{
    DType, Matrix,
    matmul::dequantize,
    samples::{Samples, Tested, formats},
};
use crate::{Result, memory::Memory};

/// See the module.
pub trait Embed: Memory {
    /// `[tokens, columns]`: row `tokens[i] - first_token` of `table`, or zeros where this rank's shard of the
    /// vocabulary (`first_token .. first_token + table rows`) has no such token; an all-reduce makes it whole. Every value
    /// is multiplied by `scale`.
    fn embed(&self, table: &Self::Weight, first_token: u32, scale: f32, batch: &Self::Batch) -> Result<Self::Tensor>;
}

/// What embedding one token means, plainly: `parts` are the table's rows, one after the other.
fn reference(parts: &[Matrix], first_token: u32, scale: f32, token: u32) -> Vec<f32> {
    let mut values = vec![0.0; parts[0].columns()];
    let mut row = token.checked_sub(first_token).map(|row| row as usize);
    for part in parts {
        match row {
            Some(own) if own < part.rows() => {
                dequantize(part.dtype(), part.row(own), &mut values);
                row = None;
            }
            _ => row = row.map(|row| row - part.rows()),
        }
    }
    values.iter_mut().for_each(|value| *value *= scale);
    values
}

/// Compares a device's rows with the reference: every format, tokens within the shard, in its padding and elsewhere.
pub(crate) fn check<B: Tested>(device: &B) {
    let mut samples = Samples::new(9);
    for (dtype, scale) in formats().zip([1.0, 2.5, 8.0].into_iter().cycle()) {
        let columns = if dtype.block_elements() == 1 { 83 } else { 256 };
        let parts = vec![samples.matrix(dtype, 50, columns), samples.matrix(DType::F32, 3, columns)];
        let tokens: Vec<u32> = vec![100, 149, 99, 150, 152, 153, 0, crate::CHOSEN - 1, 120, 120];
        let expected: Vec<f32> = tokens.iter().flat_map(|&token| reference(&parts, 100, scale, token)).collect();
        let weight = device.weight(parts).expect("a supported weight");
        let batch = device.batch(crate::Batch { tokens, ..crate::Batch::default() }).expect("memory");
        let rows = device.embed(&weight, 100, scale, &batch).expect("rows");
        assert_eq!(device.to_host(&rows).expect("a copy"), expected, "{dtype:?}");
    }
}

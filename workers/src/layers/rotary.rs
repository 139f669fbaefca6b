//! Rotary position embedding: the table of cosines and sines that all layers share.

use kernels::{Backend, Heads, Result, memory::Memory, rotary::Pairing};

use super::Source;
use crate::{models::Rope, weights::LoadError};

/// The angles of every position up to the longest sequence.
pub(crate) struct Rotary<M: Memory> {
    /// `[positions, rotary dim]`: per position the cosines, then the sines.
    table: M::Tensor,
    pairing: Pairing,
}

impl<M: Memory> Rotary<M> {
    /// Computes the table for positions `0..positions`.
    pub(crate) fn new(source: &Source<M>, rope: &Rope, positions: usize) -> std::result::Result<Self, LoadError> {
        let table = table(rope, positions);
        Ok(Self { table: source.device.tensor(positions, rope.dim, &table)?, pairing: rope.pairing })
    }

    /// Turns the query and key heads of `qkv` by their tokens' positions.
    pub(crate) fn forward(&self, device: &M, qkv: &mut M::Tensor, heads: &Heads, batch: &M::Batch) -> Result<()>
    where
        M: Backend,
    {
        device.rotary(qkv, heads, &self.table, self.pairing, batch)
    }
}

/// Angles are products in f32, as in the models' training; at position 100,000 their rounding is visible, and part of the
/// model.
fn table(rope: &Rope, positions: usize) -> Vec<f32> {
    let (frequencies, magnitude) = (rope.frequencies(), f64::from(rope.magnitude()));
    let mut table = Vec::with_capacity(positions * rope.dim);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|frequency| (angle(frequency).cos() * magnitude) as f32));
        table.extend(frequencies.iter().map(|frequency| (angle(frequency).sin() * magnitude) as f32));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Scaling;

    #[test]
    fn cosines_come_before_sines() {
        let rope = Rope { dim: 4, theta: 10_000.0, scaling: Scaling::None, pairing: Pairing::Half };
        let table = table(&rope, 3);
        assert_eq!(&table[..4], [1.0, 1.0, 0.0, 0.0]);
        let expected = [2.0f32.cos(), 0.02f32.cos(), 2.0f32.sin(), 0.02f32.sin()];
        for (found, expected) in table[8..].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
    }
}

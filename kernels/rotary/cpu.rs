//! Rotary embedding on the CPU.

use std::cell::{Ref, RefCell};

use super::{Pairing, Rotary, Turns};
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Tensor},
};

/// What an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.4;

/// Positions whose cosines and sines are computed together, when the first of them is met.
const CHUNK: usize = 1024;

/// Cosines and sines of the positions met so far. A model for a hundred thousand positions would have 64 MB of them on every
/// rank, and most sequences are short.
pub struct Angles {
    turns: Turns,
    /// `[positions, 2 × d/2]`: per position the cosines, then the sines.
    table: RefCell<Vec<f32>>,
}

impl Angles {
    pub(crate) fn new(turns: Turns) -> Self {
        Self { turns, table: RefCell::default() }
    }

    /// The table, at least up to `position`.
    fn up_to(&self, position: usize) -> Ref<'_, Vec<f32>> {
        assert!(position < self.turns.positions, "position {position} of {}", self.turns.positions);
        let columns = self.columns();
        let rows = self.table.borrow().len().checked_div(columns).unwrap_or(0);
        if rows <= position {
            let mut table = self.table.borrow_mut();
            let end = (position + 1).next_multiple_of(CHUNK).min(self.turns.positions);
            (rows..end).for_each(|position| self.turns.extend(position, &mut table));
        }
        self.table.borrow()
    }

    /// Of the table.
    fn columns(&self) -> usize {
        2 * self.turns.frequencies.len()
    }
}

impl Turns {
    fn extend(&self, position: usize, table: &mut Vec<f32>) {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        let magnitude = f64::from(self.magnitude);
        table.extend(self.frequencies.iter().map(|frequency| (angle(frequency).cos() * magnitude) as f32));
        table.extend(self.frequencies.iter().map(|frequency| (angle(frequency).sin() * magnitude) as f32));
    }
}

impl Rotary for Cpu {
    fn rotary(&self, qkv: &mut Tensor, heads: &Heads, angles: &Angles, batch: &Batch) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a row per token");
        assert!(angles.columns() <= heads.dim, "no more angles than half a head");
        let Some(&furthest) = batch.positions.iter().max() else { return Ok(()) };
        let table = angles.up_to(furthest as usize);
        let (table, width, pairing) = (&**table, angles.columns(), angles.turns.pairing);
        let (rows, columns, dim) = (qkv.rows(), qkv.columns(), heads.dim);
        self.team.share_rows([(qkv.data_mut(), columns)], rows, NANOSECONDS * columns as f64, |row, [values]| {
            let own = &table[batch.positions[row] as usize * width..][..width];
            let (cosines, sines) = own.split_at(width / 2);
            for head in values.chunks_exact_mut(dim).take(heads.query + heads.kv) {
                turn(head, cosines, sines, pairing);
            }
        });
        Ok(())
    }
}

fn turn(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: Pairing) {
    match pairing {
        Pairing::Half => {
            let (firsts, seconds) = head.split_at_mut(cosines.len());
            for (((x, y), cosine), sine) in firsts.iter_mut().zip(seconds).zip(cosines).zip(sines) {
                (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
            }
        }
        Pairing::Interleaved => {
            for (([x, y], cosine), sine) in head.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines) {
                (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::rotary::check(&cpu);
        }
    }

    #[test]
    fn only_positions_met_are_computed() {
        let frequencies = vec![1.0, 0.01];
        let turns = Turns { frequencies, magnitude: 1.0, pairing: Pairing::Half, positions: 100_000 };
        let angles = Angles::new(turns);
        assert_eq!(angles.up_to(0).len(), CHUNK * 4);
        assert_eq!(&angles.up_to(0)[..4], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(angles.up_to(CHUNK).len(), 2 * CHUNK * 4);
        assert_eq!(angles.up_to(99_999).len(), 100_000 * 4, "and none beyond the last");
    }
}

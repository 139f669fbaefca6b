//! Cosines and sines, computed as positions are met.

use std::cell::{Ref, RefCell};

use crate::rotary::Turns;

/// Positions whose cosines and sines are computed together, when the first of them is met.
const CHUNK: usize = 1024;

/// Cosines and sines of the positions met so far. A model for a hundred thousand positions would have 64 MB of them on every
/// rank, and most sequences are short.
pub struct Angles {
    pub(super) turns: Turns,
    /// `[positions, 2 × d/2]`: per position the cosines, then the sines.
    table: RefCell<Vec<f32>>,
}

impl Angles {
    pub(crate) fn new(turns: Turns) -> Self {
        Self { turns, table: RefCell::default() }
    }

    /// The table, at least up to `position`.
    pub(super) fn up_to(&self, position: usize) -> Ref<'_, Vec<f32>> {
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
    pub(super) fn columns(&self) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotary::Pairing;

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

//! Parts of what a file has in one: gate and up rows, query, key and value rows.

use super::{Stored, stored::EveryRow};

/// Which rows of a matrix (or elements of a bias) are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All.
    All,
    /// The first half, or the second.
    Half(usize),
    /// Every other one, from the first or the second on.
    EveryOther(usize),
    /// A run of them: start and length.
    Run(usize, usize),
}

impl Part {
    /// Halves of so many rows as runs.
    pub(super) fn of(self, rows: usize) -> Self {
        match self {
            Part::Half(which) => Part::Run(which * (rows / 2), rows / 2),
            // A run that reaches beyond the rows is no part of them.
            Part::Run(start, length) if start + length > rows => Part::Run(0, 0),
            part => part,
        }
    }

    /// How many rows of so many.
    pub(super) fn count(self, rows: usize) -> usize {
        match self {
            Part::All => rows,
            Part::Half(_) => rows / 2,
            Part::EveryOther(first) => rows.saturating_sub(first).div_ceil(2),
            Part::Run(_, length) => length,
        }
    }

    /// Those rows; halves have become runs.
    pub(super) fn take(self, stored: Stored) -> Stored {
        match self {
            Part::EveryOther(first) => Stored::new(EveryRow::of(stored, first, 2)),
            Part::Run(start, length) => stored.row_range(start..start + length),
            Part::All | Part::Half(_) => stored,
        }
    }

    /// Those of so many elements.
    pub(super) fn take_values(self, values: Vec<f32>) -> Vec<f32> {
        match self {
            Part::EveryOther(first) => values.into_iter().skip(first).step_by(2).collect(),
            Part::Run(start, length) => values[start..start + length].to_vec(),
            Part::All | Part::Half(_) => values,
        }
    }
}

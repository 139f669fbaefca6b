//! Scales of the tiles of a matrix: one for all, one for each row, for each group of a row, or for each block of rows and
//! columns.

use super::{Groups, Numbers};
use crate::weights::{LoadError, encoding::Tile};

/// Scales `[tiles down, tiles across]`.
pub(crate) struct Grid {
    pub numbers: Numbers,
    /// Rows that share them.
    rows: usize,
    across: usize,
}

impl Grid {
    /// The scales of a matrix of `shape`, and which columns share one. The tile is the one `said` if it fits, or else as
    /// many equal ones as there are scales.
    pub(super) fn of(numbers: Numbers, shape: (usize, usize), said: Tile) -> Result<(Self, Groups), LoadError> {
        let (down, across) = numbers.shape();
        let (said_rows, said_columns) = said.unzip();
        let groups = Groups::runs(shape.1, across, said_columns);
        let rows = Groups::runs(shape.0, down, said_rows);
        let (Some(Groups::Runs(rows)), Some(groups)) = (rows, groups) else {
            let (rows, columns) = shape;
            let fault = format!("has shape {down} × {across}, which does not divide a matrix of {rows} × {columns}");
            return Err(numbers.tensor.fault(fault));
        };
        Ok((Self { numbers, rows, across }, groups))
    }

    /// The row and the column of the grid that a row's group has.
    pub(super) fn cell(&self, row: usize, group: usize) -> (usize, usize) {
        (row / self.rows, group)
    }

    /// Where that lies.
    pub(super) fn place(&self, row: usize, group: usize) -> usize {
        let (down, across) = self.cell(row, group);
        down * self.across + across
    }

    /// Rows and columns of the grid.
    pub(super) fn shape(&self) -> (usize, usize) {
        self.numbers.shape()
    }

    /// The scale of a row's group.
    pub(super) fn at(&self, row: usize, group: usize) -> f32 {
        self.numbers.at(self.place(row, group))
    }
}

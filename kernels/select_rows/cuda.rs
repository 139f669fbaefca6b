//! Picking rows on a GPU.

use super::SelectRows;
use crate::{
    Result,
    cuda::{Cuda, Grid, Source, Tensor},
};

const SOURCE: Source = Source { name: "select_rows", text: include_str!("cuda.cu") };

impl SelectRows for Cuda {
    fn select_rows(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        assert!(rows.iter().all(|&row| (row as usize) < x.rows()), "rows are selected of those that there are");
        let selected = self.alike(x, rows.len(), x.columns())?;
        let row_bytes = x.columns() * x.element().bytes();
        if selected.elements() == 0 {
            return Ok(selected);
        }
        self.collect_rows(x)?;
        match first_of_run(rows) {
            // In most steps each sequence computes one token, and all rows are wanted: no index goes to the GPU.
            Some(first) => {
                let from = x.pointer().offset(first as usize * row_bytes);
                // SAFETY: the rows from the first on are of `x`, as was asserted, and as many as of the fresh tensor.
                unsafe { self.driver().copy_within(selected.pointer(), from, selected.bytes()) }?;
            }
            None => self.gather(&selected, x, rows)?,
        }
        Ok(selected)
    }
}

impl Cuda {
    fn gather(&self, selected: &Tensor, x: &Tensor, rows: &[u32]) -> Result<()> {
        const THREADS: usize = 256;
        let words: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
        let indices = self.scratch(words.len())?;
        // SAFETY: the buffer was taken for as many bytes.
        unsafe { self.driver().copy_in(indices.pointer(), &words) }?;
        let row_bytes = x.columns() * x.element().bytes();
        let (entry, piece_bytes) = match row_bytes {
            bytes if bytes.is_multiple_of(16) => ("select_rows_by_16", 16),
            bytes if bytes.is_multiple_of(4) => ("select_rows_by_4", 4),
            _ => ("select_rows_by_2", 2),
        };
        let pieces = row_bytes / piece_bytes;
        let blocks = [rows.len() as u32, pieces.div_ceil(THREADS) as u32, 1];
        let arguments = &mut [selected.into(), x.into(), indices.pointer().into(), pieces.into()];
        let grid = Grid { blocks, threads: THREADS as u32, shared_bytes: 0 };
        // SAFETY: rows of both have as many pieces, and the indices are of rows of `x`, as was asserted.
        unsafe { self.launch(&SOURCE, entry, grid, arguments) }
    }
}

/// The first of rows that follow one another.
fn first_of_run(rows: &[u32]) -> Option<u32> {
    let first = *rows.first()?;
    rows.iter().zip(first..).all(|(&row, expected)| row == expected).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for gpu in Cuda::kinds() {
            crate::select_rows::check(&gpu);
        }
    }

    #[test]
    fn rows_that_follow_one_another_are_a_run() {
        assert_eq!(first_of_run(&[]), None);
        assert_eq!(first_of_run(&[7]), Some(7));
        assert_eq!(first_of_run(&[3, 4, 5]), Some(3));
        assert_eq!(first_of_run(&[3, 5, 6]), None);
    }
}

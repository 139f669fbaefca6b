//! All-gather through shared memory: every rank puts its rows there piece by piece, everybody copies them into place.

use super::AllGather;
use crate::group::{Collective, Group, Turn};
use crate::{Result, cpu::Cpu};

impl AllGather for Cpu {
    fn all_gather(&self, x: Self::Tensor) -> Result<Self::Tensor> {
        if self.group.world_size() == 1 {
            return Ok(x);
        }
        let mut all = self.scratch(x.rows(), x.columns() * self.group.world_size());
        all_gather(&self.group, x.data(), x.columns(), all.data_mut())?;
        Ok(all)
    }
}

/// `all [rows, ranks × columns]` becomes each rank's `x [rows, columns]` side by side.
pub(crate) fn all_gather(group: &Group, x: &[f32], columns: usize, all: &mut [f32]) -> Result<()> {
    let Some(mut turn) = group.turn(Collective::AllGather)? else {
        all.copy_from_slice(x);
        return Ok(());
    };
    for (index, piece) in x.chunks(Turn::<f32>::WORDS_MAX).enumerate() {
        turn.slot(piece.len()).copy_from_slice(piece);
        let slots = turn.meet(piece.len())?;
        let place = Place { columns, ranks: group.world_size(), first: index * Turn::<f32>::WORDS_MAX };
        for rank in 0..group.world_size() {
            place.copy(slots.of(rank), rank, all);
        }
    }
    Ok(())
}

/// Where a piece of a rank's rows belongs among everybody's.
struct Place {
    columns: usize,
    ranks: usize,
    /// Index of the piece's first element in the rank's rows.
    first: usize,
}

impl Place {
    fn copy(&self, mut piece: &[f32], rank: usize, all: &mut [f32]) {
        let mut index = self.first;
        while !piece.is_empty() {
            let (row, column) = (index / self.columns, index % self.columns);
            let (run, rest) = piece.split_at(piece.len().min(self.columns - column));
            let start = (row * self.ranks + rank) * self.columns + column;
            all[start..start + run.len()].copy_from_slice(run);
            index += run.len();
            piece = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::all_gather::reference;
    use crate::cpu::CpuConfig;
    use crate::group::{Waiting, run_ranks};

    fn contribution(rank: usize, length: usize) -> Vec<f32> {
        (0..length).map(|i| (rank * 10_000_000 + i) as f32).collect()
    }

    fn check(world_size: usize, rows: usize, columns: usize) {
        let gathered = run_ranks(world_size, Waiting::Sleep, |group| {
            let mut all = vec![f32::NAN; rows * columns * world_size];
            all_gather(&group, &contribution(group.rank(), rows * columns), columns, &mut all).expect("all are there");
            all
        });
        let parts: Vec<_> = (0..world_size).map(|rank| contribution(rank, rows * columns)).collect();
        for (rank, all) in gathered.iter().enumerate() {
            assert!(*all == reference(&parts, columns), "{rows} × {columns} on rank {rank} of {world_size}");
        }
    }

    #[test]
    fn conforms() {
        for ranks in [2, 3] {
            run_ranks(ranks, Waiting::Sleep, |group| {
                crate::all_gather::check_among(&Cpu::new(CpuConfig::default(), group))
            });
        }
    }

    #[test]
    fn every_rank_gets_all_columns_in_rank_order() {
        for world_size in [1, 2, 3, 4, 8] {
            for (rows, columns) in
                [(0, 4), (3, 0), (1, 1), (5, 7), (3, 24_576), (2, Turn::<f32>::WORDS_MAX + 9), (400, 999)]
            {
                check(world_size, rows, columns);
            }
        }
    }
}

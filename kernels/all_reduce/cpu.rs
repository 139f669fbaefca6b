//! All-reduce through shared memory.
//!
//! A short tensor takes one phase: every rank reads everybody's whole slot. Among more than two ranks a long one takes two:
//! each rank sums its own part for all, then reads the others' parts, so that a rank reads `2 n` elements rather than
//! `ranks × n`. Either way an element is summed in the order of the ranks.

use std::ops::Range;

use super::{AllReduce, NormAfter};
use crate::group::{Collective, Group, Slots, Turn};
use crate::{
    Result,
    cpu::{Cpu, Tensor},
    rms_norm::RmsNorm,
};

/// From here on the second phase costs less than the reading that it saves.
const ONE_PHASE_BYTES_MAX: usize = 64 << 10;

impl AllReduce for Cpu {
    fn all_reduce(&self, x: &mut Self::Tensor) -> Result<()> {
        all_reduce(&self.group, x.data_mut())
    }

    fn all_reduce_add_rms_norm(&self, residual: &mut Tensor, mut x: Tensor, norm: NormAfter<Tensor>) -> Result<Tensor> {
        self.all_reduce(&mut x)?;
        self.add_rms_norm(residual, &x, norm.scale, norm.weight, norm.eps)
    }
}

/// `x` becomes the sum over the group's ranks.
pub(crate) fn all_reduce(group: &Group, x: &mut [f32]) -> Result<()> {
    let Some(mut turn) = group.turn(Collective::AllReduce)? else { return Ok(()) };
    for piece in x.chunks_mut(Turn::<f32>::WORDS_MAX) {
        if group.world_size() == 2 || size_of_val(piece) <= ONE_PHASE_BYTES_MAX {
            reduce_at_once(&mut turn, group, piece)?;
        } else {
            reduce_by_parts(&mut turn, group, piece)?;
        }
    }
    Ok(())
}

fn reduce_at_once(turn: &mut Turn<'_, f32>, group: &Group, piece: &mut [f32]) -> Result<()> {
    turn.slot(piece.len()).copy_from_slice(piece);
    let slots = turn.meet(piece.len())?;
    sum(&slots, group, 0..piece.len(), piece);
    Ok(())
}

fn reduce_by_parts(turn: &mut Turn<'_, f32>, group: &Group, piece: &mut [f32]) -> Result<()> {
    let words = piece.len();
    let part = |rank: usize| words * rank / group.world_size()..words * (rank + 1) / group.world_size();
    let own = part(group.rank());
    turn.slot(words).copy_from_slice(piece);
    sum(&turn.meet(words)?, group, own.clone(), &mut piece[own.clone()]);
    turn.slot(own.len()).copy_from_slice(&piece[own]);
    let slots = turn.meet(words)?;
    for rank in (0..group.world_size()).filter(|&rank| rank != group.rank()) {
        piece[part(rank)].copy_from_slice(&slots.of(rank)[..part(rank).len()]);
    }
    Ok(())
}

/// `own`, this rank's elements `range`, become the sum of every rank's, rank 0's first.
fn sum(slots: &Slots<'_, f32>, group: &Group, range: Range<usize>, own: &mut [f32]) {
    // The first two can be added to each other in either order: one of them need not be read again.
    let first = group.rank().min(1);
    if group.rank() > first {
        own.copy_from_slice(&slots.of(first)[range.clone()]);
    }
    for rank in (0..group.world_size()).filter(|&rank| rank != first) {
        for (sum, value) in own.iter_mut().zip(&slots.of(rank)[range.clone()]) {
            *sum += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::all_reduce::reference;
    use crate::cpu::CpuConfig;
    use crate::group::{Waiting, run_ranks};

    /// What rank `rank` brings: values whose sum depends on the order of adding.
    fn contribution(rank: usize, length: usize) -> Vec<f32> {
        (0..length).map(|i| ((i * 37 + rank * 101) % 1009) as f32 * 0.37 - 180.0 + rank as f32 * 1e5).collect()
    }

    fn check(world_size: usize, waiting: Waiting, lengths: &[usize]) {
        let sums = run_ranks(world_size, waiting, |group| {
            let reduced = lengths.iter().map(|&length| {
                let mut x = contribution(group.rank(), length);
                all_reduce(&group, &mut x).expect("all are there");
                x
            });
            reduced.collect::<Vec<_>>()
        });
        for (index, &length) in lengths.iter().enumerate() {
            let parts: Vec<_> = (0..world_size).map(|rank| contribution(rank, length)).collect();
            let expected = reference(&parts);
            for (rank, sum) in sums.iter().enumerate() {
                assert_eq!(sum[index], expected, "{length} elements on rank {rank} of {world_size}");
            }
        }
    }

    #[test]
    fn conforms() {
        for ranks in [2, 3] {
            run_ranks(ranks, Waiting::Sleep, |group| {
                crate::all_reduce::check_among(&Cpu::new(CpuConfig::default(), group))
            });
        }
    }

    #[test]
    fn every_rank_gets_the_sum_in_rank_order() {
        let one_phase = ONE_PHASE_BYTES_MAX / 4;
        let slot = Turn::<f32>::WORDS_MAX;
        for world_size in [1, 2, 3, 4, 8] {
            check(
                world_size,
                Waiting::Sleep,
                &[0, 1, 7, 576, one_phase, one_phase + 1, slot - 1, slot, slot + 5, 2 * slot + 3],
            );
        }
    }

    #[test]
    fn many_in_a_row_keep_apart() {
        // Scattered over 0..20,000: one phase and two phases follow each other in every order.
        let lengths: Vec<usize> =
            (0..400u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 12) as usize % 20_000).collect();
        check(2, Waiting::Spin, &lengths);
        check(4, Waiting::Sleep, &lengths);
        check(8, Waiting::Sleep, &lengths);
    }
}

//! Broadcast through shared memory: rank 0 writes, the others read.

use super::Broadcast;
use crate::group::{Collective, Group, Turn};
use crate::{Result, cpu::Cpu};

impl Broadcast for Cpu {
    fn broadcast(&self, values: &mut [u32]) -> Result<()> {
        broadcast(&self.group, values)
    }
}

/// `values` become rank 0's.
pub(crate) fn broadcast(group: &Group, values: &mut [u32]) -> Result<()> {
    let Some(mut turn) = group.turn(Collective::Broadcast)? else { return Ok(()) };
    for piece in values.chunks_mut(Turn::<u32>::WORDS_MAX) {
        if group.rank() == 0 {
            turn.slot(piece.len()).copy_from_slice(piece);
        }
        let slots = turn.meet(piece.len())?;
        if group.rank() != 0 {
            piece.copy_from_slice(slots.of(0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{Waiting, run_ranks};

    #[test]
    fn every_rank_gets_what_rank_0_has() {
        for world_size in [1, 2, 3, 4, 8] {
            for length in [0, 1, 16, Turn::<u32>::WORDS_MAX + 3] {
                let zeros_values: Vec<u32> = (0..length as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
                let received = run_ranks(world_size, Waiting::Sleep, |group| {
                    let mut values = if group.rank() == 0 { zeros_values.clone() } else { vec![7; length] };
                    broadcast(&group, &mut values).expect("all are there");
                    values
                });
                assert!(received.iter().all(|values| *values == zeros_values), "{length} words to {world_size} ranks");
            }
        }
    }
}

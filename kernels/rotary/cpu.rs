//! Rotary embedding on the CPU.

use super::{Pairing, Rotary};
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Tensor},
};

/// What an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.4;

impl Rotary for Cpu {
    fn rotary(&self, qkv: &mut Tensor, heads: &Heads, table: &Tensor, pairing: Pairing, batch: &Batch) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a row per token");
        assert!(table.columns() <= heads.dim, "no more angles than half a head");
        let (rows, columns, dim) = (qkv.rows(), qkv.columns(), heads.dim);
        self.team.share_rows([(qkv.data_mut(), columns)], rows, NANOSECONDS * columns as f64, |row, [values]| {
            let (cosines, sines) = table.row(batch.positions[row] as usize).split_at(table.columns() / 2);
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
}

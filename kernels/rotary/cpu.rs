//! Rotary embedding on the CPU.

use super::{Pairing, Rotary};
use crate::{
    Batch, Heads, Result,
    cpu::{Cpu, Tensor},
};

impl Rotary for Cpu {
    fn rotary(&self, qkv: &mut Tensor, heads: &Heads, table: &Tensor, pairing: Pairing, batch: &Batch) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a row per token");
        assert!(table.columns() <= heads.dim, "no more angles than half a head");
        for (row, &position) in batch.positions.iter().enumerate() {
            let (cosines, sines) = table.row(position as usize).split_at(table.columns() / 2);
            for head in qkv.row_mut(row).chunks_exact_mut(heads.dim).take(heads.query + heads.kv) {
                turn(head, cosines, sines, pairing);
            }
        }
        Ok(())
    }
}

fn turn(head: &mut [f32], cosines: &[f32], sines: &[f32], pairing: Pairing) {
    let half = cosines.len();
    for (i, (cosine, sine)) in cosines.iter().zip(sines).enumerate() {
        let (a, b) = match pairing {
            Pairing::Half => (i, i + half),
            Pairing::Interleaved => (2 * i, 2 * i + 1),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cosine - y * sine;
        head[b] = x * sine + y * cosine;
    }
}

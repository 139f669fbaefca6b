//! Latent heads on the CPU.

use std::ops::Range;

use super::{LatentAttention, LatentHeads};
use crate::{
    Result,
    cpu::{Cpu, Piece, Split, Tensor, Weight},
    matmul::{Place, Product, Rows},
    rms_norm::normalise,
};

/// What an element that is copied or normalised costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.3;

/// Outputs that a thread takes at once.
const GRAIN: usize = 128;

impl LatentAttention for Cpu {
    fn latent_rows(
        &self,
        q: &Tensor,
        kv: &Tensor,
        (norm, eps): (&Tensor, f32),
        key_up: &Weight,
        heads: &LatentHeads,
    ) -> Result<Tensor> {
        let LatentHeads { query, nope, rope, latent, .. } = *heads;
        assert_eq!(q.columns(), query * (nope + rope), "rows hold the queries");
        assert_eq!((kv.rows(), kv.columns()), (q.rows(), latent + rope), "rows hold the latent and the turned part");
        assert_eq!(norm.data().len(), latent, "a norm weight per element of the latent");
        let columns = (query + 1) * heads.key();
        let mut rows = self.scratch(q.rows(), columns);
        let from = |head: usize| head * (nope + rope)..head * (nope + rope) + nope;
        let to = |head: usize| head * heads.key() + rope;
        self.by_heads(q, key_up, query, &mut rows, from, to);
        let isa = self.isa;
        let nanoseconds = NANOSECONDS * (query * rope + latent) as f64;
        self.team.share_rows([(rows.data_mut(), columns)], q.rows(), nanoseconds, |token, [row]| {
            for (to, from) in row.chunks_exact_mut(heads.key()).zip(q.row(token).chunks_exact(nope + rope)) {
                to[..rope].copy_from_slice(&from[nope..]);
            }
            let (own_latent, turned) = kv.row(token).split_at(latent);
            let (to_turned, to_latent) = row[query * heads.key()..].split_at_mut(rope);
            to_turned.copy_from_slice(turned);
            to_latent.copy_from_slice(own_latent);
            normalise(isa, to_latent, norm.data(), eps);
        });
        Ok(rows)
    }

    fn latent_values(&self, attended: &Tensor, value_up: &Weight, heads: &LatentHeads) -> Result<Tensor> {
        let LatentHeads { query, latent, value, .. } = *heads;
        assert_eq!(attended.columns(), query * latent, "rows hold what attention answered");
        let mut values = self.scratch(attended.rows(), query * value);
        let from = |head: usize| head * latent..(head + 1) * latent;
        self.by_heads(attended, value_up, query, &mut values, from, |head| head * value);
        Ok(values)
    }
}

impl Cpu {
    /// Each head's columns of `x` (`from`) times its part of the stacked `weight`; the first output of a head goes to the
    /// column `to`.
    fn by_heads(
        &self,
        x: &Tensor,
        weight: &Weight,
        heads: usize,
        output: &mut Tensor,
        from: impl Fn(usize) -> Range<usize> + Sync,
        to: impl Fn(usize) -> usize + Sync,
    ) {
        assert_eq!(weight.inputs(), from(0).len(), "a head's columns are the weight's inputs");
        let (outputs, stride) = (weight.outputs() / heads, output.columns());
        let pieces = |head| weight.pieces(head * outputs..(head + 1) * outputs, GRAIN).map(move |piece| (head, piece));
        let items: Vec<(usize, Piece)> = (0..heads).flat_map(pieces).collect();
        let (split, isa) = (Split::new(output.data_mut()), self.isa);
        self.team.run(items.len(), |item| {
            let (head, Piece { part, rows, first, .. }) = items[item].clone();
            let place = Place { output: &split, stride, first_row: 0, first_column: to(head) + first, bias: None };
            Product { x: Rows::of(x).columns(from(head)), rounded: None, part, packed: None, rows, place }.run(isa);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::mla::check(&cpu);
        }
    }
}

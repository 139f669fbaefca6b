//! Heads before attention, on the CPU: rows are normalised and turned by threads that share tokens, and stored by threads
//! that share KV heads, whose tiles are their own.

mod angles;
mod keep;

pub use angles::Angles;

use super::{HeadNorms, Pairing, Rotary};
use crate::{
    Batch, Heads, Result,
    cpu::{
        Cpu, KvCache, Tensor,
        simd::{Isa, Kernel, Simd},
    },
    rms_norm::normalise,
};

/// What turning an element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.4;

/// The same of normalising it.
const NORM_NANOSECONDS: f64 = 0.3;

impl Rotary for Cpu {
    fn rotary_store(
        &self,
        qkv: &mut Tensor,
        heads: &Heads,
        norms: Option<HeadNorms<Tensor>>,
        angles: &Angles,
        (cache, layer): (&mut KvCache, usize),
        batch: &Batch,
    ) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        assert_eq!(qkv.rows(), batch.positions.len(), "a row per token");
        assert!(angles.columns() <= heads.dim, "no more angles than half a head");
        let Some(&furthest) = batch.positions.iter().max() else { return Ok(()) };
        let table = angles.up_to(furthest as usize);
        let (table, width, pairing) = (&**table, angles.columns(), angles.turns.pairing);
        let (rows, columns, isa) = (qkv.rows(), qkv.columns(), self.isa);
        let norms = norms.map(|norms| Norms::of(&norms, heads.dim));
        let nanoseconds = NANOSECONDS + if norms.is_some() { NORM_NANOSECONDS } else { 0.0 };
        self.team.share_rows([(qkv.data_mut(), columns)], rows, nanoseconds * columns as f64, |row, [values]| {
            let own = &table[batch.positions[row] as usize * width..][..width];
            let (cosines, sines) = own.split_at(width / 2);
            let values = &mut values[..(heads.query + heads.kv) * heads.dim];
            if let Some(norms) = &norms {
                for (index, head) in values.chunks_exact_mut(heads.dim).enumerate() {
                    norms.apply(isa, head, index < heads.query);
                }
            }
            isa.run(Turn { heads: values, dim: heads.dim, cosines, sines, pairing });
        });
        self.keep(cache, layer, qkv, heads, batch);
        Ok(())
    }
}

/// Norms of heads, as slices.
struct Norms<'a> {
    query: &'a [f32],
    key: &'a [f32],
    eps: f32,
}

impl<'a> Norms<'a> {
    fn of(norms: &HeadNorms<'a, Tensor>, dim: usize) -> Self {
        let (query, key) = (norms.query.data(), norms.key.data());
        assert_eq!((query.len(), key.len()), (dim, dim), "a norm weight per element of a head");
        Self { query, key, eps: norms.eps }
    }

    fn apply(&self, isa: Isa, head: &mut [f32], is_query: bool) {
        normalise(isa, head, if is_query { self.query } else { self.key }, self.eps);
    }
}

/// A row's heads, turned by its position's angles.
struct Turn<'a> {
    heads: &'a mut [f32],
    dim: usize,
    cosines: &'a [f32],
    sines: &'a [f32],
    pairing: Pairing,
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { heads, dim, cosines, sines, pairing } = self;
        for head in heads.chunks_exact_mut(dim) {
            match pairing {
                Pairing::Half => turn_halves(simd, head, cosines, sines),
                Pairing::Interleaved => {
                    for (([x, y], cosine), sine) in head.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines) {
                        (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                    }
                }
            }
        }
    }
}

/// Products are rounded before they are added, in lanes as behind the last whole vector.
#[inline(always)]
fn turn_halves<S: Simd>(simd: S, head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    // What is behind the pairs isn't turned.
    let (firsts, seconds) = head[..2 * cosines.len()].split_at_mut(cosines.len());
    let ((firsts, xs), (seconds, ys)) = (firsts.as_chunks_mut(), seconds.as_chunks_mut());
    let ((cosines, last_cosines), (sines, last_sines)) = (cosines.as_chunks(), sines.as_chunks());
    for (((first, second), cosine), sine) in firsts.iter_mut().zip(seconds).zip(cosines).zip(sines) {
        let (x, y, cosine, sine) = (simd.load(first), simd.load(second), simd.load(cosine), simd.load(sine));
        simd.store(simd.sub(simd.mul(x, cosine), simd.mul(y, sine)), first);
        simd.store(simd.add(simd.mul(x, sine), simd.mul(y, cosine)), second);
    }
    for (((x, y), cosine), sine) in xs.iter_mut().zip(ys).zip(last_cosines).zip(last_sines) {
        (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
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

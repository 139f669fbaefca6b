//! The SwiGLU gate on the CPU.

use super::SiluMul;
use crate::{
    Result,
    cpu::{
        Cpu, Split, Tensor,
        simd::{Kernel, LANES, Simd, exp, padded},
    },
};

/// What a gated element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.7;

impl SiluMul for Cpu {
    fn silu_mul(&self, gate_up: &Tensor) -> Result<Tensor> {
        assert!(gate_up.columns().is_multiple_of(2), "as many gates as ups");
        let (rows, columns, isa) = (gate_up.rows(), gate_up.columns() / 2, self.isa);
        let mut output = self.scratch(rows, columns);
        // Even a single row is worth sharing where it is long, so a piece of a row is what a thread takes.
        let pieces = rows * columns.div_ceil(PIECE);
        let split = Split::new(output.data_mut());
        self.team.share(pieces, NANOSECONDS * PIECE.min(columns) as f64, |piece| {
            let (row, start) = (piece / columns.div_ceil(PIECE), piece % columns.div_ceil(PIECE) * PIECE);
            let end = columns.min(start + PIECE);
            let (gates, ups) = gate_up.row(row).split_at(columns);
            // SAFETY: pieces are disjoint.
            let output = unsafe { split.part(row * columns + start..row * columns + end) };
            isa.run(Gate { gates: &gates[start..end], ups: &ups[start..end], output });
        });
        Ok(output)
    }
}

/// Elements that a thread takes at once.
const PIECE: usize = 2048;

struct Gate<'a> {
    gates: &'a [f32],
    ups: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, _) = self.gates.as_chunks::<LANES>();
        let (ups, _) = self.ups.as_chunks::<LANES>();
        let (output, rest) = self.output.as_chunks_mut::<LANES>();
        for ((gates, ups), output) in gates.iter().zip(ups).zip(output.iter_mut()) {
            simd.store(gate(simd, simd.load(gates), simd.load(ups)), output);
        }
        let at = output.len() * LANES;
        if !rest.is_empty() {
            let mut lanes = [0.0; LANES];
            let (gates, ups) = (simd.load(&padded(self.gates, at)), simd.load(&padded(self.ups, at)));
            simd.store(gate(simd, gates, ups), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

#[inline(always)]
fn gate<S: Simd>(simd: S, gate: S::F, up: S::F) -> S::F {
    let zero = simd.splat(0.0);
    let below = simd.add(simd.splat(1.0), exp(simd, simd.sub(zero, gate)));
    simd.mul(simd.div(gate, below), up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::silu_mul::check(&cpu);
        }
    }
}

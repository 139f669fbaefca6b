//! Gated linear units on the CPU.

use std::cell::RefCell;

use super::{Activation, Glu};
use crate::{
    Result,
    cpu::{
        Cpu, Floats, Split, Tensor, Weight,
        simd::{Isa, Kernel, LANES, Simd, exp, padded},
    },
    matmul::{MatMul, PACKED_SIDE, Place, Product, Rows, Shares},
    memory::Memory,
};

/// What a gated element costs a thread, roughly: only sharing among threads depends on it.
const NANOSECONDS: f64 = 0.7;

impl Glu for Cpu {
    fn glu(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
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
            run(isa, activation, Piece { gates: &gates[start..end], ups: &ups[start..end], output });
        });
        Ok(output)
    }

    /// Gates and ups of the same columns are made one after the other, and go no further than a core's cache.
    fn gated_product(
        &self,
        x: &Tensor,
        gate_up: &Weight,
        bias: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        self.prepare(gate_up);
        // Else columns of one half would begin within what is packed together.
        if !gate_up.has_equal_halves() || !gate_up.has_packed() {
            return self.glu(&self.matmul(x, gate_up, bias)?, activation);
        }
        assert_eq!(x.columns(), gate_up.inputs(), "x has as many columns as the weight has inputs");
        let (width, bias) = (gate_up.outputs() / 2, bias.map(Tensor::data));
        assert!(bias.is_none_or(|bias| bias.len() == 2 * width), "a bias per output");
        let mut output = self.scratch(x.rows(), width);
        let rounded = self.rounded(x, gate_up);
        let Shares { block, outputs } = self.shares(x.rows(), gate_up, rounded.as_deref());
        let grain = (outputs / 2).next_multiple_of(2 * PACKED_SIDE).min(GATES);
        let (pieces, blocks) = (width.div_ceil(grain), x.rows().div_ceil(block));
        let (split, isa) = (Split::new(output.data_mut()), self.isa);
        self.team.run(blocks * pieces, |item| {
            let (first, start) = (item / pieces * block, item % pieces * grain);
            let (end, columns) = (x.rows().min(first + block), start..width.min(start + grain));
            HALVES.with_borrow_mut(|halves| {
                let length = (end - first) * columns.len();
                for (index, half) in halves.iter_mut().enumerate() {
                    half.resize(length);
                    let (own, of_half) = (Split::new(half), index * width);
                    let bias = bias.map(|bias| &bias[of_half + start..]);
                    for piece in gate_up.pieces(of_half + start..of_half + columns.end, columns.len()) {
                        let place = Place {
                            output: &own,
                            stride: columns.len(),
                            first_row: 0,
                            first_column: piece.first,
                            bias,
                        };
                        let (x, rounded) = (Rows::of(x).run(first..end), rounded.as_deref());
                        Product { x, rounded, part: piece.part, packed: piece.packed, rows: piece.rows, place }
                            .run(isa);
                    }
                }
                let [gates, ups] = halves.each_ref().map(|half| half.chunks_exact(columns.len()));
                for ((row, gates), ups) in (first..end).zip(gates).zip(ups) {
                    // SAFETY: items are of different rows or of different columns.
                    let output = unsafe { split.part(row * width + columns.start..row * width + columns.end) };
                    run(isa, activation, Piece { gates, ups, output });
                }
            });
        });
        Ok(output)
    }
}

/// Gates that a thread takes at once, at most: with as many ups, of a block's rows, some of a second-level cache.
const GATES: usize = 128;

thread_local! {
    /// Each thread's own room for gates and ups.
    static HALVES: RefCell<[Floats; 2]> = const { RefCell::new([Floats::new(), Floats::new()]) };
}

/// Elements that a thread takes at once.
const PIECE: usize = 2048;

/// Some elements of a row.
struct Piece<'a> {
    gates: &'a [f32],
    ups: &'a [f32],
    output: &'a mut [f32],
}

/// Each activation is compiled on its own.
fn run(isa: Isa, activation: Activation, piece: Piece) {
    match activation {
        Activation::Silu => isa.run(Gate { piece, unit: Silu }),
        Activation::GeluTanh => isa.run(Gate { piece, unit: GeluTanh }),
        Activation::Clamped { limit, alpha } => isa.run(Gate { piece, unit: Clamped { limit, alpha } }),
    }
}

/// Eight elements of an activation.
trait Unit: Copy {
    fn gate<S: Simd>(self, simd: S, gate: S::F, up: S::F) -> S::F;
}

#[derive(Clone, Copy)]
struct Silu;

#[derive(Clone, Copy)]
struct GeluTanh;

#[derive(Clone, Copy)]
struct Clamped {
    limit: f32,
    alpha: f32,
}

impl Unit for Silu {
    #[inline(always)]
    fn gate<S: Simd>(self, simd: S, gate: S::F, up: S::F) -> S::F {
        simd.mul(times_sigmoid(simd, gate, gate), up)
    }
}

impl Unit for GeluTanh {
    /// `(1 + tanh y) / 2` is `sigmoid(2y)`.
    #[inline(always)]
    fn gate<S: Simd>(self, simd: S, gate: S::F, up: S::F) -> S::F {
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
        let cubic = simd.fma(simd.mul(gate, gate), simd.splat(0.044715), simd.splat(1.0));
        let y = simd.mul(simd.mul(gate, cubic), simd.splat(TWICE_SQRT_2_OVER_PI));
        simd.mul(times_sigmoid(simd, gate, y), up)
    }
}

impl Unit for Clamped {
    #[inline(always)]
    fn gate<S: Simd>(self, simd: S, gate: S::F, up: S::F) -> S::F {
        let limit = simd.splat(self.limit);
        let gate = simd.min(limit, gate);
        let up = simd.max(simd.splat(-self.limit), simd.min(limit, up));
        let value = times_sigmoid(simd, gate, simd.mul(gate, simd.splat(self.alpha)));
        simd.mul(value, simd.add(up, simd.splat(1.0)))
    }
}

/// `x · sigmoid(y)`.
#[inline(always)]
fn times_sigmoid<S: Simd>(simd: S, x: S::F, y: S::F) -> S::F {
    let below = simd.add(simd.splat(1.0), exp(simd, simd.sub(simd.splat(0.0), y)));
    simd.div(x, below)
}

struct Gate<'a, U> {
    piece: Piece<'a>,
    unit: U,
}

impl<U: Unit> Kernel for Gate<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Piece { gates, ups, output } = self.piece;
        let (gate_eights, _) = gates.as_chunks::<LANES>();
        let (up_eights, _) = ups.as_chunks::<LANES>();
        let (output, rest) = output.as_chunks_mut::<LANES>();
        for ((gates, ups), output) in gate_eights.iter().zip(up_eights).zip(output.iter_mut()) {
            simd.store(self.unit.gate(simd, simd.load(gates), simd.load(ups)), output);
        }
        let at = output.len() * LANES;
        if !rest.is_empty() {
            let mut lanes = [0.0; LANES];
            let (gates, ups) = (simd.load(&padded(gates, at)), simd.load(&padded(ups, at)));
            simd.store(self.unit.gate(simd, gates, ups), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::glu::check(&cpu);
        }
    }
}

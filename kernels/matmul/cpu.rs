//! Linear layers on the CPU.
//!
//! One order of arithmetic for every batch size, thread count and path. What most models are stored in is rearranged when
//! they are loaded: quantized weights, to be multiplied as integers ([`packed`]), and floats of 16 bits ([`halves`]).
//!
//! Of all others an output is one eight-lane chain of fused multiply-adds over the inputs (lane = input mod 8, the last
//! eight padded with zeros), then one fixed tree over the lanes, then the bias. Few rows of `x` read the weights'
//! registers right after decoding ([`direct`]); many rows make it worth decoding a panel of outputs to memory first
//! ([`panel`]).

mod decode;
mod direct;
mod halves;
mod packed;
mod panel;
mod with_format;

use std::{
    ops::Range,
    sync::{MutexGuard, PoisonError},
};

pub(crate) use self::{
    decode::decode,
    packed::{Integers, Rounded, SIDE as PACKED_SIDE},
};
use self::{
    direct::Direct,
    halves::{Halves, HalvesProduct},
    packed::{Kinds, MANY_ROWS, OUTPUTS_OF_MANY, PackedProduct},
    panel::{PANEL_ROWS, SIDE, panel_outputs},
    with_format::with_format,
};
use super::MatMul;
use crate::{
    DType, Matrix, Result,
    cpu::{
        Cpu, Piece, Rounding, Split, Tensor, Weight,
        simd::{Isa, LANES, Simd},
        team::Team,
    },
    memory::Memory,
};

/// A stored matrix, rearranged for its products: [`PACKED_SIDE`] outputs at a time.
pub(crate) enum Packed {
    Integers(Integers),
    Halves(Halves),
}

impl Packed {
    /// The matrix rearranged for activations that are rounded so, if that's worth while.
    pub(crate) fn of(matrix: &Matrix, rounding: Rounding, isa: Isa, team: &Team) -> Option<Self> {
        match matrix {
            matrix if matrix.rows() == 0 => None,
            matrix if Self::are_integers(matrix.dtype()) => {
                Some(Self::Integers(Integers::new(matrix, rounding == Rounding::Bytes, isa, team)))
            }
            matrix if Halves::takes(matrix) => Some(Self::Halves(Halves::new(matrix, team))),
            _ => None,
        }
    }

    /// What a weight of this format may be off by in products of this instruction set, relative to the largest near it.
    pub(crate) fn rounding(dtype: DType, isa: Isa) -> f32 {
        Integers::rounding(dtype, isa)
    }

    /// Whether weights of this format are multiplied as integers, so that activations are rounded.
    pub(crate) fn are_integers(dtype: DType) -> bool {
        Integers::takes(dtype)
    }
}

impl MatMul for Cpu {
    fn scores(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        self.matmul(x, weight, bias)
    }

    fn matmul(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        assert_eq!(x.columns(), weight.inputs(), "x has as many columns as the weight has inputs");
        let bias = bias.map(Tensor::data);
        assert!(bias.is_none_or(|bias| bias.len() == weight.outputs()), "a bias per output");
        let mut output = self.scratch(x.rows(), weight.outputs());
        let rounded = self.rounded(x, weight);
        let Shares { block, outputs } = self.shares(x.rows(), weight, rounded.as_deref());
        let pieces: Vec<_> = weight.pieces(0..weight.outputs(), outputs).collect();
        let (split, isa) = (Split::new(output.data_mut()), self.isa);
        self.team.run(x.rows().div_ceil(block) * pieces.len(), |item| {
            let Piece { part, packed, rows, first } = pieces[item % pieces.len()].clone();
            let first_row = item / pieces.len() * block;
            let x = Rows::of(x).run(first_row..x.rows().min(first_row + block));
            let place = Place { output: &split, stride: weight.outputs(), first_row, first_column: first, bias };
            Product { x, rounded: rounded.as_deref(), part, packed, rows, place }.run(isa);
        });
        Ok(output)
    }
}

impl Cpu {
    /// What packed parts of `weight` are multiplied with: `x` in integers, if there are any.
    pub(crate) fn rounded(&self, x: &Tensor, weight: &Weight) -> Option<MutexGuard<'_, Rounded>> {
        self.prepare(weight);
        let words = weight.integers().any(Integers::is_words);
        let groups = weight.integers().any(|integers| !integers.is_words());
        (groups || words).then(|| {
            let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
            let kinds = Kinds { groups, words, bytes: self.rounding == Rounding::Bytes };
            rounded.convert(x, kinds, self.isa, &self.team);
            rounded
        })
    }

    /// How `rows` rows, which are `rounded` if they are to be, are shared among the threads.
    pub(crate) fn shares(&self, rows: usize, weight: &Weight, rounded: Option<&Rounded>) -> Shares {
        let block = match rounded {
            Some(rounded) => rounded.block(),
            None if weight.has_packed() => halves::BLOCK,
            None => rows.max(1),
        };
        Shares { block, outputs: self.grain(rows, block, weight) }
    }

    /// How many outputs of `block` rows a thread takes at once: whole panels, or a few thousandths of a second's work, yet
    /// enough items that the threads end together. A multiple of [`PACKED_SIDE`], but for panels.
    fn grain(&self, rows: usize, block: usize, weight: &Weight) -> usize {
        let multiply_adds = rows * weight.outputs() * weight.inputs();
        if weight.has_packed() {
            if multiply_adds < 64 * 1024 {
                return weight.outputs().next_multiple_of(PACKED_SIDE);
            }
            let even = weight.outputs().div_ceil((self.team.threads() * 8).div_ceil(rows.div_ceil(block)));
            return match rows {
                MANY_ROWS.. => (even / OUTPUTS_OF_MANY).max(1) * OUTPUTS_OF_MANY,
                _ => even.next_multiple_of(PACKED_SIDE),
            };
        }
        if self.team.threads() == 1 || multiply_adds < 64 * 1024 {
            return if rows < PANEL_ROWS { weight.outputs().max(1) } else { panel_outputs(weight.inputs()) };
        }
        let even = weight.outputs().div_ceil(self.team.threads() * 8).next_multiple_of(2 * SIDE);
        if rows < PANEL_ROWS { even } else { even.min(panel_outputs(weight.inputs())) }
    }
}

/// How a product is shared among threads.
pub(crate) struct Shares {
    /// Rows that stay in a core's cache while it has weights pass by; where weights are decoded first, that is for all.
    pub(crate) block: usize,
    /// Outputs of theirs that a thread takes at once.
    pub(crate) outputs: usize,
}

/// The rows that are multiplied: all of a tensor's or some of them, and of each all columns or some.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    tensor: &'a Tensor,
    first_column: usize,
    columns: usize,
    picked: Picked<'a>,
}

/// Which rows of a tensor.
#[derive(Clone, Copy)]
pub(crate) enum Picked<'a> {
    /// So many from this one on.
    Run { first: usize, count: usize },
    /// These.
    List(&'a [u32]),
}

impl Picked<'_> {
    /// How many.
    fn count(&self) -> usize {
        match self {
            Self::Run { count, .. } => *count,
            Self::List(rows) => rows.len(),
        }
    }

    /// One of them.
    #[inline(always)]
    fn at(&self, index: usize) -> usize {
        match self {
            Self::Run { first, .. } => first + index,
            Self::List(rows) => rows[index] as usize,
        }
    }
}

impl<'a> Rows<'a> {
    /// All of them, whole.
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        let picked = Picked::Run { first: 0, count: tensor.rows() };
        Self { tensor, first_column: 0, columns: tensor.columns(), picked }
    }

    /// Columns `range` of them.
    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.tensor.columns(), "columns of the tensor");
        Self { first_column: range.start, columns: range.len(), ..self }
    }

    /// The rows `range` of the tensor.
    pub(crate) fn run(self, range: Range<usize>) -> Self {
        Self { picked: Picked::Run { first: range.start, count: range.len() }, ..self }
    }

    /// These rows of the tensor.
    pub(crate) fn list(self, rows: &'a [u32]) -> Self {
        Self { picked: Picked::List(rows), ..self }
    }

    /// How many.
    fn count(&self) -> usize {
        self.picked.count()
    }

    /// One of them.
    #[inline(always)]
    fn row(&self, index: usize) -> &'a [f32] {
        &self.tensor.row(self.picked.at(index))[self.first_column..self.first_column + self.columns]
    }
}

/// Where a product's outputs go.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) output: &'a Split<'a, f32>,
    /// Columns of the output.
    pub(crate) stride: usize,
    /// The output's row for the first row of `x`.
    pub(crate) first_row: usize,
    /// The output's column for the first output.
    pub(crate) first_column: usize,
    /// What is added, by the output's columns.
    pub(crate) bias: Option<&'a [f32]>,
}

impl Place<'_> {
    /// Writes a side's outputs of row `row`, or, if there are fewer from the product's number `at` on, the first `count`.
    #[inline(always)]
    fn put_side(&self, row: usize, at: usize, sums: &[f32; PACKED_SIDE], count: usize) {
        // Most are whole, and so many numbers are written sooner than a copy is called.
        if count == PACKED_SIDE { self.put(row, at, sums) } else { self.put(row, at, &sums[..count]) }
    }

    /// Writes neighbouring outputs of row `row`, the first being the product's number `at`.
    #[inline(always)]
    fn put(&self, row: usize, at: usize, sums: &[f32]) {
        let column = self.first_column + at;
        let start = (self.first_row + row) * self.stride + column;
        // SAFETY: products that are computed at the same time have disjoint outputs, as their makers see to, so no other
        // thread has these elements.
        let to = unsafe { self.output.part(start..start + sums.len()) };
        match self.bias {
            None => to.copy_from_slice(sums),
            Some(bias) => {
                for ((to, sum), bias) in to.iter_mut().zip(sums).zip(&bias[column..]) {
                    *to = sum + bias;
                }
            }
        }
    }
}

/// Rows `x` times rows `rows` of `part`.
pub(crate) struct Product<'a> {
    pub(crate) x: Rows<'a>,
    /// All rows of the tensor of `x`, in integers; there where the part is packed as integers.
    pub(crate) rounded: Option<&'a Rounded>,
    pub(crate) part: &'a Matrix,
    /// The part rearranged; `rows` begin with a multiple of [`PACKED_SIDE`] then, and `x` has all columns.
    pub(crate) packed: Option<&'a Packed>,
    pub(crate) rows: Range<usize>,
    pub(crate) place: Place<'a>,
}

impl Product<'_> {
    /// Each path, format and instruction set is compiled on its own: together they would be one vast function.
    pub(crate) fn run(&self, isa: Isa) {
        let (outputs, place) = (self.rows.clone(), self.place);
        match (self.packed, self.rounded) {
            (Some(Packed::Integers(weight)), Some(x)) => {
                return PackedProduct { x, picked: self.x.picked, weight, outputs, place }.run(isa);
            }
            (Some(Packed::Halves(weight)), _) => return HalvesProduct { x: self.x, weight, outputs, place }.run(isa),
            _ => {}
        }
        with_format!(self.part.dtype(), F => match self.x.count() {
            0 => {}
            1 => isa.run(Direct::<F, 4, 1>::of(self)),
            2 => isa.run(Direct::<F, 4, 2>::of(self)),
            3 | 4 => isa.run(Direct::<F, 2, 4>::of(self)),
            _ => self.by_panels(isa),
        })
    }
}

/// Ends the chains: one tree over the lanes of each.
#[inline(always)]
fn all_sums<S: Simd, const R: usize, const M: usize>(simd: S, chains: [[S::F; R]; M]) -> [[f32; R]; M] {
    let mut sums = [[0.0; R]; M];
    for m in 0..M {
        if R == 4 {
            sums[m].copy_from_slice(&simd.sum4([chains[m][0], chains[m][1 % R], chains[m][2 % R], chains[m][3 % R]]));
        } else {
            for r in 0..R {
                sums[m][r] = simd.sum(chains[m][r]);
            }
        }
    }
    sums
}

#[inline(always)]
fn eight(values: &[f32], at: usize) -> &[f32; LANES] {
    values[at..at + LANES].try_into().expect("eight values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, cpu::Instructions, memory::Memory, samples::Samples};

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds().into_iter().chain(Cpu::kinds_of_bytes()) {
            crate::matmul::check(&cpu);
        }
    }

    /// Through every path: direct kernels of all widths, whole and partial panels, any number of threads.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        for instructions in [Instructions::Best, Instructions::Portable] {
            for dtype in DType::ALL {
                check_company(instructions, Rounding::Shorts, dtype);
            }
            for dtype in DType::ALL.into_iter().filter(|&dtype| Packed::are_integers(dtype)) {
                check_company(instructions, Rounding::Bytes, dtype);
            }
        }
    }

    fn check_company(instructions: Instructions, rounding: Rounding, dtype: DType) {
        // Floats of an even row are rearranged.
        let columns: &[usize] = if dtype.block_elements() == 1 { &[587, 586] } else { &[512] };
        columns.iter().for_each(|&columns| check_company_of(instructions, rounding, dtype, columns));
    }

    fn check_company_of(instructions: Instructions, rounding: Rounding, dtype: DType, columns: usize) {
        let mut samples = Samples::new(7);
        let parts = vec![samples.matrix(dtype, 203, columns), samples.matrix(dtype, 2, columns)];
        let x = samples.floats(130 * columns);
        let solo = |threads| Cpu::that_rounds(threads, instructions, rounding);
        let alone = solo(1);
        let weight = alone.weight(parts).unwrap();
        let mut expected = Vec::new();
        for row in x.chunks_exact(columns) {
            let row = alone.tensor(1, columns, row).unwrap();
            expected.extend(alone.to_host(&alone.matmul(&row, &weight, None).unwrap()).unwrap());
        }
        for threads in [1, 2, 5] {
            let cpu = solo(threads);
            for rows in (1..=13).chain([40, 130]) {
                let x = cpu.tensor(rows, columns, &x[..rows * columns]).unwrap();
                let product = cpu.matmul(&x, &weight, None).unwrap();
                let equal = product.data().iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal, "{dtype:?}, {rows} rows, {threads} threads, {instructions:?}, {rounding:?}");
            }
        }
    }
}

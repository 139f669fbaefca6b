//! Linear layers on the CPU.
//!
//! One order of arithmetic for every batch size, thread count and path: an output is one eight-lane chain of
//! fused multiply-adds over the inputs (lane = input mod 8, the last eight padded with zeros), then one fixed tree over
//! the lanes, then the bias. Few rows of `x` read the weights' registers right after decoding ([`Direct`]); many rows
//! make it worth decoding a panel of outputs to memory first ([`Panel`]).

use std::{cell::RefCell, ops::Range};

use super::{
    MatMul,
    formats::{self, Format, GROUP},
};
use crate::{
    DType, Matrix, Result,
    cpu::{
        Cpu, Floats, Split, Tensor, Weight,
        simd::{Kernel, LANES, Simd, padded},
    },
    matmul::dequantize,
};

/// From this many rows of `x` on, panels are faster (measured).
const PANEL_ROWS: usize = 9;
/// Floats of a panel: it shall stay in a core's second-level cache.
const PANEL_FLOATS: usize = 48 * 1024;
/// Outputs that one micro-kernel computes side by side.
const SIDE: usize = 4;

impl MatMul for Cpu {
    fn matmul(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        assert_eq!(x.columns(), weight.inputs(), "x has as many columns as the weight has inputs");
        let bias = bias.map(Tensor::data);
        assert!(bias.is_none_or(|bias| bias.len() == weight.outputs()), "a bias per output");
        let mut output = self.scratch(x.rows(), weight.outputs());
        let items = items(weight, self.grain(x.rows(), weight));
        let split = Split::new(output.data_mut());
        self.team.run(items.len(), |item| {
            let Item { part, rows, first_output } = items[item].clone();
            let place = Place { output: &split, outputs: weight.outputs(), first_output, bias };
            self.isa.run(Product { x, part, rows, place });
        });
        Ok(output)
    }
}

impl Cpu {
    /// How many outputs a thread takes at once: whole panels, or a few thousandths of a second's work, yet enough items
    /// that the threads end together.
    fn grain(&self, rows: usize, weight: &Weight) -> usize {
        let multiply_adds = rows * weight.outputs() * weight.inputs();
        if self.team.threads() == 1 || multiply_adds < 64 * 1024 {
            return if rows < PANEL_ROWS { weight.outputs().max(1) } else { panel_outputs(weight.inputs()) };
        }
        let even = weight.outputs().div_ceil(self.team.threads() * 8).next_multiple_of(2 * SIDE);
        if rows < PANEL_ROWS { even } else { even.min(panel_outputs(weight.inputs())) }
    }
}

fn panel_outputs(inputs: usize) -> usize {
    (PANEL_FLOATS / inputs.max(1) / SIDE * SIDE).clamp(SIDE, 16 * SIDE)
}

/// Some outputs of one part of a weight.
#[derive(Clone)]
struct Item<'a> {
    part: &'a Matrix,
    rows: Range<usize>,
    first_output: usize,
}

fn items(weight: &Weight, grain: usize) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    for (first, part) in weight.parts() {
        for start in (0..part.rows()).step_by(grain) {
            let rows = start..part.rows().min(start + grain);
            items.push(Item { part, rows, first_output: first + start });
        }
    }
    items
}

/// Where an item's outputs go.
#[derive(Clone, Copy)]
struct Place<'a> {
    output: &'a Split<'a, f32>,
    outputs: usize,
    first_output: usize,
    bias: Option<&'a [f32]>,
}

impl Place<'_> {
    /// Writes neighbouring outputs of row `row`, the first being the item's number `at`.
    #[inline(always)]
    fn put(&self, row: usize, at: usize, sums: &[f32]) {
        let column = self.first_output + at;
        let start = row * self.outputs + column;
        // SAFETY: items have disjoint outputs, so no other thread has these elements.
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

/// All rows of `x` times rows `rows` of `part`.
struct Product<'a> {
    x: &'a Tensor,
    part: &'a Matrix,
    rows: Range<usize>,
    place: Place<'a>,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.part.dtype() {
            DType::F32 => self.stored_as::<S, formats::F32>(simd),
            DType::F16 => self.stored_as::<S, formats::F16>(simd),
            DType::BF16 => self.stored_as::<S, formats::BF16>(simd),
            DType::Q8_0 => self.stored_as::<S, formats::Q8_0>(simd),
            DType::Q4_0 => self.stored_as::<S, formats::Q4_0>(simd),
            DType::Q4_1 => self.stored_as::<S, formats::Q4_1>(simd),
            DType::Q5_0 => self.stored_as::<S, formats::Q5_0>(simd),
            DType::Q5_1 => self.stored_as::<S, formats::Q5_1>(simd),
            DType::Q4_K => self.stored_as::<S, formats::Q4K>(simd),
            DType::Q5_K => self.stored_as::<S, formats::Q5K>(simd),
            DType::Q6_K => self.stored_as::<S, formats::Q6K>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn stored_as<S: Simd, F: Format>(&self, simd: S) {
        if self.x.rows() >= PANEL_ROWS {
            return self.by_panels::<S, F>(simd);
        }
        match self.x.rows() {
            0 => {}
            1 => self.directly::<S, F, 4, 1>(simd),
            2 => self.directly::<S, F, 4, 2>(simd),
            3 => self.directly::<S, F, 2, 3>(simd),
            4 => self.directly::<S, F, 2, 4>(simd),
            5 => self.directly::<S, F, 1, 5>(simd),
            6 => self.directly::<S, F, 1, 6>(simd),
            7 => self.directly::<S, F, 1, 7>(simd),
            _ => self.directly::<S, F, 1, 8>(simd),
        }
    }

    /// `M` rows of `x`, `R` outputs at a time, the rest one at a time.
    #[inline(always)]
    fn directly<S: Simd, F: Format, const R: usize, const M: usize>(&self, simd: S) {
        let count = self.rows.len();
        let whole = count / R * R;
        for at in (0..whole).step_by(R) {
            self.direct_block::<S, F, R, M>(simd, at);
        }
        for at in whole..count {
            self.direct_block::<S, F, 1, M>(simd, at);
        }
    }

    #[inline(always)]
    fn direct_block<S: Simd, F: Format, const R: usize, const M: usize>(&self, simd: S, at: usize) {
        let columns = self.part.columns();
        let mut weights: [&[u8]; R] = [&[]; R];
        for (index, weights) in weights.iter_mut().enumerate() {
            *weights = self.part.row(self.rows.start + at + index);
        }
        let mut x: [&[f32]; M] = [&[]; M];
        for (row, x) in x.iter_mut().enumerate() {
            *x = self.x.row(row);
        }
        let mut chains = [[simd.splat(0.0); M]; R];
        for group in 0..columns / GROUP {
            for r in 0..R {
                let decoded = F::group(simd, weights[r], group);
                for (part, decoded) in decoded.into_iter().enumerate() {
                    for m in 0..M {
                        let x = simd.load(eight(x[m], group * GROUP + part * LANES));
                        chains[r][m] = simd.fma(decoded, x, chains[r][m]);
                    }
                }
            }
        }
        if !columns.is_multiple_of(GROUP) {
            for r in 0..R {
                let tail = decoded_tail(F::DTYPE, weights[r], columns);
                for start in (0..columns % GROUP).step_by(LANES) {
                    let decoded = simd.load(eight(&tail, start));
                    for m in 0..M {
                        let x = simd.load(&padded(x[m], columns / GROUP * GROUP + start));
                        chains[r][m] = simd.fma(decoded, x, chains[r][m]);
                    }
                }
            }
        }
        for m in 0..M {
            let mut column = [simd.splat(0.0); R];
            for r in 0..R {
                column[r] = chains[r][m];
            }
            self.place.put(m, at, &sums(simd, column));
        }
    }

    /// Decodes the item's outputs to memory, then multiplies them with all rows of `x`.
    #[inline(always)]
    fn by_panels<S: Simd, F: Format>(&self, simd: S) {
        PANEL.with_borrow_mut(|panel| {
            let stride = self.part.columns().next_multiple_of(LANES);
            let panel_outputs = panel_outputs(stride);
            for first in (0..self.rows.len()).step_by(panel_outputs) {
                let count = panel_outputs.min(self.rows.len() - first);
                panel.resize(count * stride);
                for index in 0..count {
                    let stored = self.part.row(self.rows.start + first + index);
                    decode_row::<S, F>(simd, stored, self.part.columns(), &mut panel[index * stride..][..stride]);
                }
                let panel = Panel { values: panel, stride, count, first };
                self.times_panel(simd, &panel);
            }
        });
    }

    #[inline(always)]
    fn times_panel<S: Simd>(&self, simd: S, panel: &Panel) {
        let rows = self.x.rows();
        for row in (0..rows).step_by(3) {
            match rows - row {
                1 => self.times_rows::<S, 1>(simd, panel, row),
                2 => self.times_rows::<S, 2>(simd, panel, row),
                _ => self.times_rows::<S, 3>(simd, panel, row),
            }
        }
    }

    #[inline(always)]
    fn times_rows<S: Simd, const M: usize>(&self, simd: S, panel: &Panel, row: usize) {
        let whole = panel.count / SIDE * SIDE;
        for at in (0..whole).step_by(SIDE) {
            self.tile::<S, SIDE, M>(simd, panel, at, row);
        }
        for at in whole..panel.count {
            self.tile::<S, 1, M>(simd, panel, at, row);
        }
    }

    /// `R` outputs of `M` rows: `R · M` chains side by side.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const M: usize>(&self, simd: S, panel: &Panel, at: usize, row: usize) {
        let columns = self.x.columns();
        let steps = columns / LANES;
        let mut weights: [&[[f32; LANES]]; R] = [&[]; R];
        for (index, weights) in weights.iter_mut().enumerate() {
            *weights = &panel.values[(at + index) * panel.stride..][..panel.stride].as_chunks().0[..steps];
        }
        let mut x: [&[[f32; LANES]]; M] = [&[]; M];
        for (index, x) in x.iter_mut().enumerate() {
            *x = &self.x.row(row + index).as_chunks().0[..steps];
        }
        let mut chains = [[simd.splat(0.0); M]; R];
        for step in 0..steps {
            let mut x_lanes = [simd.splat(0.0); M];
            for m in 0..M {
                x_lanes[m] = simd.load(&x[m][step]);
            }
            for r in 0..R {
                let weight = simd.load(&weights[r][step]);
                for m in 0..M {
                    chains[r][m] = simd.fma(weight, x_lanes[m], chains[r][m]);
                }
            }
        }
        if !columns.is_multiple_of(LANES) {
            for r in 0..R {
                let weight = simd.load(eight(&panel.values[(at + r) * panel.stride..], steps * LANES));
                for m in 0..M {
                    let x = simd.load(&padded(self.x.row(row + m), steps * LANES));
                    chains[r][m] = simd.fma(weight, x, chains[r][m]);
                }
            }
        }
        for m in 0..M {
            let mut column = [simd.splat(0.0); R];
            for r in 0..R {
                column[r] = chains[r][m];
            }
            self.place.put(row + m, panel.first + at, &sums(simd, column));
        }
    }
}

/// Decoded outputs `first .. first + count` of an item, one per `stride` floats, zeros after the last weight.
struct Panel<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
    first: usize,
}

thread_local! {
    /// Each thread's own panel, kept from call to call.
    static PANEL: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

/// Writes a stored row's values, then zeros to the end of `values`.
#[inline(always)]
pub(super) fn decode_row<S: Simd, F: Format>(simd: S, stored: &[u8], columns: usize, values: &mut [f32]) {
    let whole = columns / GROUP;
    let (eights, _) = values.as_chunks_mut::<LANES>();
    for group in 0..whole {
        let decoded = F::group(simd, stored, group);
        for (part, decoded) in decoded.into_iter().enumerate() {
            simd.store(decoded, &mut eights[group * GROUP / LANES + part]);
        }
    }
    if whole * GROUP < values.len() {
        let rest = &mut values[whole * GROUP..];
        let length = rest.len();
        rest.copy_from_slice(&decoded_tail(F::DTYPE, stored, columns)[..length]);
    }
}

/// The values of the columns after the last whole group, then zeros. Only formats without blocks have such columns.
#[cold]
fn decoded_tail(dtype: DType, stored: &[u8], columns: usize) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let count = columns % GROUP;
    dequantize(dtype, &stored[dtype.bytes_of(columns - count)..], &mut values[..count]);
    values
}

#[inline(always)]
fn sums<S: Simd, const R: usize>(simd: S, chains: [S::F; R]) -> [f32; R] {
    let mut result = [0.0; R];
    if R == SIDE {
        result.copy_from_slice(&simd.sum4([chains[0], chains[1 % R], chains[2 % R], chains[3 % R]]));
    } else {
        for r in 0..R {
            result[r] = simd.sum(chains[r]);
        }
    }
    result
}

#[inline(always)]
fn eight(values: &[f32], at: usize) -> &[f32; LANES] {
    values[at..at + LANES].try_into().expect("eight values")
}

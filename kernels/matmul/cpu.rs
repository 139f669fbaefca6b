//! Linear layers on the CPU.
//!
//! One order of arithmetic for every batch size, thread count and path: an output is one eight-lane chain of
//! fused multiply-adds over the inputs (lane = input mod 8, the last eight padded with zeros), then one fixed tree over
//! the lanes, then the bias. Few rows of `x` read the weights' registers right after decoding ([`Direct`]); many rows
//! make it worth decoding a panel of outputs to memory first ([`Panel`]).

use std::{cell::RefCell, marker::PhantomData, ops::Range};

use super::{
    MatMul,
    formats::{self, Format, GROUP},
};
use crate::{
    DType, Matrix, Result,
    cpu::{
        Cpu, Floats, Split, Tensor, Weight,
        simd::{Isa, Kernel, LANES, Simd, padded},
    },
    matmul::dequantize,
};

/// From this many rows of `x` on, panels are faster (measured).
const PANEL_ROWS: usize = 5;
/// Floats of a panel: it shall stay in a core's second-level cache.
const PANEL_FLOATS: usize = 48 * 1024;
/// How far ahead of the weights being read others are asked for, at least: a few hundred nanoseconds' worth.
const PREFETCH_BYTES: usize = 3 * 1024;
/// Outputs that the panel's micro-kernel computes side by side …
const SIDE: usize = 4;
/// … for this many rows of `x`: twelve chains, as many as hide the latency and leave registers for their operands.
const ROWS: usize = 3;

/// Evaluates `$body` with `$format` naming the type of a [`DType`].
macro_rules! with_format {
    ($dtype:expr, $format:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $format = formats::F32;
                $body
            }
            DType::F16 => {
                type $format = formats::F16;
                $body
            }
            DType::BF16 => {
                type $format = formats::BF16;
                $body
            }
            DType::Q8_0 => {
                type $format = formats::Q8_0;
                $body
            }
            DType::Q4_0 => {
                type $format = formats::Q4_0;
                $body
            }
            DType::Q4_1 => {
                type $format = formats::Q4_1;
                $body
            }
            DType::Q5_0 => {
                type $format = formats::Q5_0;
                $body
            }
            DType::Q5_1 => {
                type $format = formats::Q5_1;
                $body
            }
            DType::Q4_K => {
                type $format = formats::Q4K;
                $body
            }
            DType::Q5_K => {
                type $format = formats::Q5K;
                $body
            }
            DType::Q6_K => {
                type $format = formats::Q6K;
                $body
            }
        }
    };
}

impl MatMul for Cpu {
    fn matmul(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        assert_eq!(x.columns(), weight.inputs(), "x has as many columns as the weight has inputs");
        let bias = bias.map(Tensor::data);
        assert!(bias.is_none_or(|bias| bias.len() == weight.outputs()), "a bias per output");
        let mut output = self.scratch(x.rows(), weight.outputs());
        let items = items(weight, self.grain(x.rows(), weight));
        let (split, isa) = (Split::new(output.data_mut()), self.isa);
        self.team.run(items.len(), |item| {
            let Item { part, rows, first_output } = items[item].clone();
            let place = Place { output: &split, outputs: weight.outputs(), first_output, bias };
            Product { x, part, rows, place }.run(isa);
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

impl Product<'_> {
    /// Each path, format and instruction set is compiled on its own: together they would be one vast function.
    fn run(&self, isa: Isa) {
        with_format!(self.part.dtype(), F => match self.x.rows() {
            0 => {}
            1 => isa.run(Direct::<F, 4, 1>::of(self)),
            2 => isa.run(Direct::<F, 4, 2>::of(self)),
            3 | 4 => isa.run(Direct::<F, 2, 4>::of(self)),
            _ => self.by_panels(isa),
        })
    }

    /// Decodes the item's outputs to memory, then multiplies them with all rows of `x`.
    fn by_panels(&self, isa: Isa) {
        PANEL.with_borrow_mut(|values| {
            let stride = self.part.columns().next_multiple_of(LANES);
            let outputs = panel_outputs(stride);
            for first in (0..self.rows.len()).step_by(outputs) {
                let count = outputs.min(self.rows.len() - first);
                values.resize(count * stride);
                for (index, values) in values.chunks_exact_mut(stride).enumerate() {
                    decode(isa, self.part, self.rows.start + first + index, values);
                }
                isa.run(Panel { product: self, values, stride, count, first });
            }
        });
    }
}

/// At most `M` rows of `x`, `R` outputs at a time, weights decoded in registers.
struct Direct<'a, F, const R: usize, const M: usize> {
    product: &'a Product<'a>,
    format: PhantomData<F>,
}

impl<'a, F, const R: usize, const M: usize> Direct<'a, F, R, M> {
    fn of(product: &'a Product<'a>) -> Self {
        Self { product, format: PhantomData }
    }
}

impl<F: Format, const R: usize, const M: usize> Kernel for Direct<'_, F, R, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { x, part, rows, place } = self.product;
        // Where there are fewer rows than the kernel has room for, the last one is computed again.
        let mut x_rows: [&[f32]; M] = [&[]; M];
        for (row, values) in x_rows.iter_mut().enumerate() {
            *values = x.row(row.min(x.rows() - 1));
        }
        // The hardware's own prefetching does not follow several rows that are read side by side.
        let ahead = (R * part.row_stride()).max(PREFETCH_BYTES);
        for at in (0..rows.len()).step_by(R) {
            let mut weights: [&[u8]; R] = [&[]; R];
            for (index, weights) in weights.iter_mut().enumerate() {
                *weights = part.row((rows.start + at + index).min(rows.end - 1));
            }
            let sums = direct::<S, F, R, M>(simd, weights, x_rows, ahead);
            for (row, sums) in sums.iter().enumerate().take(x.rows()) {
                place.put(row, at, &sums[..R.min(rows.len() - at)]);
            }
        }
    }
}

/// For each row of `x` its `R` outputs.
#[inline(always)]
fn direct<S: Simd, F: Format, const R: usize, const M: usize>(
    simd: S,
    weights: [&[u8]; R],
    x: [&[f32]; M],
    ahead: usize,
) -> [[f32; R]; M] {
    let columns = x[0].len();
    let mut chains = [[simd.splat(0.0); R]; M];
    let mut blocks = weights;
    let whole_blocks = columns / (F::GROUPS * GROUP);
    assert!(weights.iter().all(|row| row.len() >= whole_blocks * F::BYTES), "rows of whole blocks");
    assert!(x.iter().all(|row| row.len() == columns), "rows of as many columns");
    for block in 0..whole_blocks {
        for r in 0..R {
            // SAFETY: rows have this many whole blocks, as asserted above.
            blocks[r] = unsafe { weights[r].get_unchecked(block * F::BYTES..(block + 1) * F::BYTES) };
            for line in (0..F::BYTES).step_by(64) {
                simd.prefetch(blocks[r].as_ptr().wrapping_add(ahead + line));
            }
        }
        let mut headers = [F::header(simd, blocks[0]); R];
        for r in 1..R {
            headers[r] = F::header(simd, blocks[r]);
        }
        // Group by group, not row by row: the chains of the rows hide each other's latency.
        for group in 0..F::GROUPS {
            for r in 0..R {
                let decoded = F::group(simd, blocks[r], &headers[r], group);
                for (part, decoded) in decoded.into_iter().enumerate() {
                    for m in 0..M {
                        let at = (block * F::GROUPS + group) * GROUP + part * LANES;
                        // SAFETY: the groups of the whole blocks are within the columns, as many as every row has.
                        let x = simd.load(unsafe { &*x[m].as_ptr().add(at).cast() });
                        chains[m][r] = simd.fma(decoded, x, chains[m][r]);
                    }
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
                    chains[m][r] = simd.fma(decoded, x, chains[m][r]);
                }
            }
        }
    }
    all_sums(simd, chains)
}

/// Decoded outputs `first .. first + count` of a product, one per `stride` floats, zeros after the last weight.
struct Panel<'a> {
    product: &'a Product<'a>,
    values: &'a [f32],
    stride: usize,
    count: usize,
    first: usize,
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.product.x.rows();
        let mut row = 0;
        while row + ROWS <= rows {
            self.rows::<S, ROWS>(simd, row);
            row += ROWS;
        }
        while row < rows {
            self.rows::<S, 1>(simd, row);
            row += 1;
        }
    }
}

impl Panel<'_> {
    /// `M` rows of `x` with all of the panel's outputs.
    #[inline(always)]
    fn rows<S: Simd, const M: usize>(&self, simd: S, row: usize) {
        let mut x: [&[f32]; M] = [&[]; M];
        for (index, x) in x.iter_mut().enumerate() {
            *x = self.product.x.row(row + index);
        }
        for at in (0..self.count).step_by(SIDE) {
            let mut weights: [&[f32]; SIDE] = [&[]; SIDE];
            for (index, weights) in weights.iter_mut().enumerate() {
                *weights = &self.values[(at + index).min(self.count - 1) * self.stride..][..self.stride];
            }
            let sums = tile(simd, weights, x);
            for (index, sums) in sums.iter().enumerate() {
                self.product.place.put(row + index, self.first + at, &sums[..SIDE.min(self.count - at)]);
            }
        }
    }
}

/// For each row of `x` its `R` outputs: `R · M` chains side by side.
#[inline(always)]
fn tile<S: Simd, const R: usize, const M: usize>(simd: S, weights: [&[f32]; R], x: [&[f32]; M]) -> [[f32; R]; M] {
    let columns = x[0].len();
    let steps = columns / LANES;
    let mut w_lanes: [&[[f32; LANES]]; R] = [&[]; R];
    for r in 0..R {
        w_lanes[r] = &weights[r].as_chunks().0[..steps];
    }
    let mut x_lanes: [&[[f32; LANES]]; M] = [&[]; M];
    for m in 0..M {
        x_lanes[m] = &x[m].as_chunks().0[..steps];
    }
    let mut chains = [[simd.splat(0.0); R]; M];
    for step in 0..steps {
        let mut values = [simd.splat(0.0); M];
        for m in 0..M {
            values[m] = simd.load(&x_lanes[m][step]);
        }
        for r in 0..R {
            let weight = simd.load(&w_lanes[r][step]);
            for m in 0..M {
                chains[m][r] = simd.fma(weight, values[m], chains[m][r]);
            }
        }
    }
    if !columns.is_multiple_of(LANES) {
        for r in 0..R {
            let weight = simd.load(eight(weights[r], steps * LANES));
            for m in 0..M {
                chains[m][r] = simd.fma(weight, simd.load(&padded(x[m], steps * LANES)), chains[m][r]);
            }
        }
    }
    all_sums(simd, chains)
}

thread_local! {
    /// Each thread's own panel, kept from call to call.
    static PANEL: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

/// Writes the values of row `row` of `matrix`, then zeros to the end of `values`.
pub(crate) fn decode(isa: Isa, matrix: &Matrix, row: usize, values: &mut [f32]) {
    with_format!(matrix.dtype(), F => {
        isa.run(Decode::<F> { stored: matrix.row(row), columns: matrix.columns(), values, format: PhantomData })
    })
}

struct Decode<'a, F> {
    stored: &'a [u8],
    columns: usize,
    values: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let whole = self.columns / GROUP;
        let (whole_values, rest) = self.values.split_at_mut(whole * GROUP);
        let blocks = self.stored.chunks_exact(F::BYTES).zip(whole_values.chunks_exact_mut(F::GROUPS * GROUP));
        for (block, values) in blocks {
            let header = F::header(simd, block);
            for (group, values) in values.chunks_exact_mut(GROUP).enumerate() {
                let decoded = F::group(simd, block, &header, group);
                for (decoded, values) in decoded.into_iter().zip(values.as_chunks_mut::<LANES>().0) {
                    simd.store(decoded, values);
                }
            }
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&decoded_tail(F::DTYPE, self.stored, self.columns)[..rest.len()]);
        }
    }
}

/// The values of the columns after the last whole group, then zeros. Only formats without blocks have such columns.
#[cold]
#[inline(never)]
fn decoded_tail(dtype: DType, stored: &[u8], columns: usize) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let count = columns % GROUP;
    dequantize(dtype, &stored[dtype.bytes_of(columns - count)..], &mut values[..count]);
    values
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
    use crate::{cpu::Instructions, memory::Memory, samples::Samples};

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::matmul::check(&cpu);
        }
    }

    /// Through every path: direct kernels of all widths, whole and partial panels, any number of threads.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        for instructions in [Instructions::Best, Instructions::Portable] {
            for dtype in DType::ALL {
                check_company(instructions, dtype);
            }
        }
    }

    fn check_company(instructions: Instructions, dtype: DType) {
        let mut samples = Samples::new(7);
        let columns = if dtype.block_elements() == 1 { 587 } else { 512 };
        let parts = vec![samples.matrix(dtype, 203, columns), samples.matrix(dtype, 2, columns)];
        let x = samples.floats(40 * columns);
        let alone = Cpu::solo(1, instructions);
        let weight = alone.weight(parts).unwrap();
        let mut expected = Vec::new();
        for row in x.chunks_exact(columns) {
            let row = alone.tensor(1, columns, row).unwrap();
            expected.extend(alone.to_host(&alone.matmul(&row, &weight, None).unwrap()).unwrap());
        }
        for threads in [1, 2, 5] {
            let cpu = Cpu::solo(threads, instructions);
            for rows in (1..=13).chain([40]) {
                let x = cpu.tensor(rows, columns, &x[..rows * columns]).unwrap();
                let product = cpu.matmul(&x, &weight, None).unwrap();
                let equal = product.data().iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(equal, "{dtype:?}, {rows} rows, {threads} threads, {instructions:?}");
            }
        }
    }

    /// The vector forms mean exactly what the plain ones do.
    #[test]
    fn formats_decode_exactly() {
        let mut samples = Samples::new(3);
        for cpu in Cpu::kinds() {
            for dtype in DType::ALL {
                let matrix = samples.matrix(dtype, 1, 1024);
                let mut expected = vec![0.0; 1024];
                dequantize(dtype, matrix.row(0), &mut expected);
                let mut values = vec![f32::NAN; 1024];
                decode(cpu.isa, &matrix, 0, &mut values);
                assert_eq!(values, expected, "{dtype:?}, {}", cpu.isa.name());
            }
        }
    }
}

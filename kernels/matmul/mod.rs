//! `x · Wᵀ + bias`: the linear layer, for every storage format of a weight.
//!
//! On the CPU the arithmetic is f32, and a quantized weight stands for its dequantized value; those of the formats that
//! are integers, a scale and perhaps an offset are multiplied as integers, with activations rounded to 16 bits of the
//! largest of 32 (2⁻¹⁶ of it at most), or to 8 where that is wanted. Every output is reduced over its inputs in one fixed order that depends on nothing
//! else in the batch, so a row's result has the same bits alone, in a batch or in a chunk.
//!
//! On a GPU with bf16 activations sums are f32. Of up to 16 rows (32 where the GPU has no kernel for some rows) each has
//! the same bits however many there are, and weights are exact; more rows have another order, and weights rounded to bf16.

#[allow(unsafe_code, reason = "threads write disjoint outputs")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;
mod dequantize;
mod e4m3;
mod formats;
mod quantize;

pub(crate) use cpu::{Integers, PACKED_SIDE, Packed, Place, Product, Rounded, Rows, Shares, decode};
pub use dequantize::dequantize;
pub use e4m3::{E4M3_MAX, decode_e4m3, encode_e4m3};
pub use quantize::{f8_scale, is_quantizable, quantize, quantize_f8, store_f8, store_wint4, store_wint8};

use crate::{
    DType, Matrix,
    samples::{Samples, Tested, formats},
};
use crate::{Result, memory::Memory};

/// See the module.
pub trait MatMul: Memory {
    /// `[rows, outputs]` from `x [rows, inputs]`, `weight [outputs, inputs]` and `bias [1, outputs]`.
    fn matmul(&self, x: &Self::Tensor, weight: &Self::Weight, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;

    /// The same in f32, whatever activations are: what something is chosen by, tokens or experts.
    fn scores(&self, x: &Self::Tensor, weight: &Self::Weight, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
}

/// What [`MatMul::matmul`] means, plainly and in f64: each sum, and that of its terms' magnitudes.
pub(crate) fn reference(x: &[f32], parts: &[Matrix], bias: Option<&[f32]>) -> Vec<[f64; 2]> {
    let columns = parts[0].columns();
    let weights: Vec<Vec<f32>> = parts.iter().flat_map(|part| (0..part.rows()).map(|row| values(part, row))).collect();
    let mut output = Vec::new();
    for x in x.chunks_exact(columns) {
        for (index, weights) in weights.iter().enumerate() {
            let products = x.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let terms = products.chain(bias.map(|bias| f64::from(bias[index])));
            output.push(terms.fold([0.0; 2], |[sum, size], term| [sum + term, size + term.abs()]));
        }
    }
    output
}

fn values(part: &Matrix, row: usize) -> Vec<f32> {
    let mut values = vec![0.0; part.columns()];
    dequantize(part.dtype(), part.row(row), &mut values);
    values
}

/// Compares a device's products with the reference, for every format and many shapes; where they are not a number of
/// whole blocks, only the formats without blocks.
pub(crate) fn check<B: Tested>(device: &B) {
    let mut samples = Samples::new(1);
    for dtype in formats() {
        for (rows, outputs, blocks) in
            [(0, 5, 1), (1, 1, 1), (1, 37, 2), (2, 4, 3), (3, 9, 1), (7, 6, 2), (8, 8, 1), (20, 17, 1), (33, 50, 2)]
        {
            let columns =
                blocks * dtype.block_elements().max(32) + if dtype.block_elements() == 1 { blocks * 7 % 29 } else { 0 };
            let parts = vec![samples.matrix(dtype, outputs, columns), samples.matrix(DType::F16, 3, columns)];
            check_parts(device, &mut samples, parts, rows, device.tolerance(tolerance(columns)).min(ROUNDED));
        }
    }
    // What GPUs with products of warpgroups have a kernel of its own for: some rows, and weights to decode.
    for dtype in formats().filter(|dtype| dtype.is_quantized()) {
        for (rows, outputs, columns) in [(17, 34, 160), (40, 300, 640), (64, 66, 32), (100, 130, 320), (200, 70, 1088)]
        {
            let columns = usize::next_multiple_of(columns, dtype.block_elements());
            let parts = vec![samples.matrix(dtype, outputs, columns), samples.matrix(DType::F16, 3, columns)];
            check_parts(device, &mut samples, parts, rows, device.tolerance(tolerance(columns)).min(ROUNDED));
        }
    }
    // What a vendor's library may take over: many rows, all of them well aligned.
    for rows in [33, 48] {
        let columns = 128;
        let parts = [(DType::BF16, 48), (DType::F16, 8), (DType::BF16, 72)]
            .map(|(dtype, outputs)| samples.matrix(dtype, outputs, columns));
        check_parts(device, &mut samples, parts.into(), rows, device.tolerance(tolerance(columns)).min(ROUNDED));
    }
}

/// Where activations are rounded to the 8 bits of bf16, so may be a weight, and so is the result: each is off by half a
/// unit of the last place, 2⁻⁹ of the value.
pub(crate) const ROUNDED: f32 = 2.0 / 512.0;

/// What sums in f32 may be off by, relative to the magnitudes of their terms: errors of 2⁻²⁴ add up like steps of a
/// random walk, with some room.
pub(crate) fn tolerance(columns: usize) -> f32 {
    2e-7 * (columns as f32).sqrt()
}

/// Compares products of random activations, as results and as scores.
fn check_parts<B: Tested>(device: &B, samples: &mut Samples, parts: Vec<Matrix>, rows: usize, tolerance: f32) {
    let (columns, outputs) = (parts[0].columns(), parts.iter().map(Matrix::rows).sum());
    let tolerance = tolerance + device.rounding(parts[0].dtype());
    let what = format!("{}: {rows} rows · {outputs} × {columns} {:?}", device.name(), parts[0].dtype());
    let x = device.stored(samples.floats(rows * columns));
    let bias = (rows % 2 == 1).then(|| samples.floats(outputs));
    let expected = reference(&x, &parts, bias.as_deref());
    let weight = device.weight(parts).expect("a supported weight");
    let x = device.tensor(rows, columns, &x).expect("memory");
    let bias = bias.map(|bias| device.vector(&bias).expect("memory"));
    let product = device.matmul(&x, &weight, bias.as_ref()).expect("a product");
    assert_near(&device.to_host(&product).expect("a copy"), &expected, tolerance, &what);
    let scores = device.scores(&x, &weight, bias.as_ref()).expect("scores");
    assert_near(&device.to_host(&scores).expect("a copy"), &expected, tolerance, &format!("{what}, scores"));
}

/// Whether sums are equal within `tolerance` times the magnitudes of their terms.
pub(crate) fn assert_near(actual: &[f32], expected: &[[f64; 2]], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (index, (&actual, [sum, size])) in actual.iter().zip(expected).enumerate() {
        let bound = f64::from(tolerance) * size;
        assert!(
            (f64::from(actual) - sum).abs() <= bound,
            "{what}: element {index} is {actual}, expected {sum} ± {bound}"
        );
    }
}

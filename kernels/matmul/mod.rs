//! `x · Wᵀ + bias`: the linear layer, for every storage format of a weight.
//!
//! On the CPU the arithmetic is f32: a quantized weight stands for its dequantized value. Every output is reduced over
//! its inputs in one fixed order that depends on nothing else in the batch, so a row's result has the same bits
//! alone, in a batch or in a chunk.

#[allow(unsafe_code, reason = "threads write disjoint outputs")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;
mod dequantize;
mod e4m3;
mod formats;
mod quantize;

pub(crate) use cpu::{Place, Product, Rows, decode};
pub use dequantize::dequantize;
pub use e4m3::{E4M3_MAX, decode_e4m3, encode_e4m3};
pub use quantize::{f8_scale, is_quantizable, quantize, quantize_f8, store_f8, store_wint4, store_wint8};

#[cfg(test)]
use crate::{
    DType, Matrix,
    samples::{Samples, assert_close},
};
use crate::{Result, memory::Memory};

/// See the module.
pub trait MatMul: Memory {
    /// `[rows, outputs]` from `x [rows, inputs]`, `weight [outputs, inputs]` and `bias [1, outputs]`.
    fn matmul(&self, x: &Self::Tensor, weight: &Self::Weight, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;

    /// The same in f32, whatever activations are: what something is chosen by, tokens or experts.
    fn scores(&self, x: &Self::Tensor, weight: &Self::Weight, bias: Option<&Self::Tensor>) -> Result<Self::Tensor>;
}

/// What [`MatMul::matmul`] means, plainly and in f64.
#[cfg(test)]
fn reference(x: &[f32], parts: &[Matrix], bias: Option<&[f32]>) -> Vec<f32> {
    let columns = parts[0].columns();
    let weights: Vec<Vec<f32>> = parts.iter().flat_map(|part| (0..part.rows()).map(|row| values(part, row))).collect();
    let mut output = Vec::new();
    for x in x.chunks_exact(columns) {
        for (index, weights) in weights.iter().enumerate() {
            let sum: f64 = x.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            output.push((sum + bias.map_or(0.0, |bias| f64::from(bias[index]))) as f32);
        }
    }
    output
}

#[cfg(test)]
fn values(part: &Matrix, row: usize) -> Vec<f32> {
    let mut values = vec![0.0; part.columns()];
    dequantize(part.dtype(), part.row(row), &mut values);
    values
}

/// Compares a device's products with the reference, for every format and many shapes; where they are not a number of
/// whole blocks, only the formats without blocks.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    let mut samples = Samples::new(1);
    for dtype in DType::ALL {
        for (rows, outputs, blocks) in
            [(0, 5, 1), (1, 1, 1), (1, 37, 2), (2, 4, 3), (3, 9, 1), (7, 6, 2), (8, 8, 1), (33, 50, 2)]
        {
            let columns =
                blocks * dtype.block_elements().max(32) + if dtype.block_elements() == 1 { blocks * 7 % 29 } else { 0 };
            let parts = vec![samples.matrix(dtype, outputs, columns), samples.matrix(DType::F16, 3, columns)];
            let x = samples.floats(rows * columns);
            let bias = (rows % 2 == 1).then(|| samples.floats(outputs + 3));
            let expected = reference(&x, &parts, bias.as_deref());
            let weight = device.weight(parts).expect("a supported weight");
            let x = device.tensor(rows, columns, &x).expect("memory");
            let bias = bias.map(|bias| device.tensor(1, outputs + 3, &bias).expect("memory"));
            let product = device.matmul(&x, &weight, bias.as_ref()).expect("a product");
            let scale = (columns as f32).sqrt() * if dtype.block_elements() == 1 { 1.0 } else { 64.0 };
            let what = format!("{}: {rows} rows · {outputs} × {columns} {dtype:?}", device.name());
            assert_close(&device.to_host(&product).expect("a copy"), &expected, 1e-6 * scale, &what);
        }
    }
}

//! Linear layers on the CPU.

use super::{MatMul, dequantize};
use crate::{
    Result,
    cpu::{Cpu, Tensor, Weight},
};

impl MatMul for Cpu {
    fn matmul(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        assert_eq!(x.columns(), weight.inputs(), "x has as many columns as the weight has inputs");
        let mut output = self.scratch(x.rows(), weight.outputs());
        let mut values = vec![0.0; weight.inputs()];
        for (first, part) in weight.parts() {
            for own in 0..part.rows() {
                dequantize(part.dtype(), part.row(own), &mut values);
                let column = first + own;
                let bias = bias.map_or(0.0, |bias| bias.data()[column]);
                for row in 0..x.rows() {
                    output.row_mut(row)[column] = dot(x.row(row), &values) + bias;
                }
            }
        }
        Ok(output)
    }
}

fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (x_chunks, x_rest) = x.as_chunks::<8>();
    let (w_chunks, w_rest) = w.as_chunks::<8>();
    for (x, w) in x_chunks.iter().zip(w_chunks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * w[lane];
        }
    }
    let rest: f32 = x_rest.iter().zip(w_rest).map(|(x, w)| x * w).sum();
    lanes.iter().sum::<f32>() + rest
}

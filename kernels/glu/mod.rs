//! The gate of a gated linear unit (Shazeer 2020): `activation(gate) · up`, alone and fused with the products that make
//! both.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

pub(crate) use cuda::arguments;

use crate::samples::{Samples, Tested, assert_close};
use crate::{DType, Matrix, matmul};
use crate::{Result, matmul::MatMul};

/// What the gate goes through before it multiplies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`: SwiGLU.
    Silu,
    /// GELU by its approximation with a hyperbolic tangent: Gemma.
    GeluTanh,
    /// GPT-OSS: the gate is at most `limit`, the up part within `±limit`; `gate · sigmoid(alpha · gate) · (up + 1)`.
    Clamped {
        /// The bound of both parts.
        limit: f32,
        /// Steepness of the sigmoid.
        alpha: f32,
    },
}

/// See the module.
pub trait Glu: MatMul {
    /// `[rows, n]` from `gate_up [rows, 2n]`, gate in the first half of the columns.
    fn glu(&self, gate_up: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;

    /// `[rows, n]` from `x [rows, inputs]` by `gate_up [2n, inputs]`, whose first half of outputs are the gates, and `bias
    /// [1, 2n]`, which is added before. The same as the gate of the product, but for the product's rounding.
    fn gated_product(
        &self,
        x: &Self::Tensor,
        gate_up: &Self::Weight,
        bias: Option<&Self::Tensor>,
        activation: Activation,
    ) -> Result<Self::Tensor> {
        self.glu(&self.matmul(x, gate_up, bias)?, activation)
    }
}

/// What the gate means, plainly and in f64.
pub(crate) fn reference(gate: f32, up: f32, activation: Activation) -> f32 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let value = match activation {
        Activation::Silu => gate * sigmoid(gate) * up,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        Activation::Clamped { limit, alpha } => {
            let gate = gate.min(f64::from(limit));
            let up = up.clamp(-f64::from(limit), f64::from(limit));
            gate * sigmoid(f64::from(alpha) * gate) * (up + 1.0)
        }
    };
    value as f32
}

const ACTIVATIONS: [Activation; 3] =
    [Activation::Silu, Activation::GeluTanh, Activation::Clamped { limit: 7.0, alpha: 1.702 }];

/// Compares a device's gates with the reference over many shapes, extreme gates among them; and its gated products, with
/// gates and ups in one format and in two.
pub(crate) fn check<B: Tested>(device: &B) {
    for activation in ACTIVATIONS {
        for (rows, columns) in [(0, 4), (1, 1), (1, 9), (3, 64), (70, 1536)] {
            check_shape(device, activation, rows, columns);
        }
    }
    let mut samples = Samples::new(1);
    for (dtype, columns) in
        [(DType::F32, 37), (DType::BF16, 64), (DType::Q4_0, 96), (DType::WInt8, 128), (DType::Q4_K, 256)]
    {
        for (index, (rows, width)) in
            [(0, 5), (1, 1), (1, 37), (8, 16), (9, 3), (20, 17), (33, 50)].into_iter().enumerate()
        {
            let halves = [dtype, if index == 2 { DType::F16 } else { dtype }];
            let halves = halves.map(|dtype| samples.matrix(dtype, width, columns));
            check_product(device, &mut samples, halves, rows, ACTIVATIONS[index % 3]);
        }
    }
}

/// Compares a gated product of random activations, with a bias where their rows are an odd number.
fn check_product<B: Tested>(
    device: &B,
    samples: &mut Samples,
    halves: [Matrix; 2],
    rows: usize,
    activation: Activation,
) {
    let (width, columns) = (halves[0].rows(), halves[0].columns());
    let formats = halves.each_ref().map(Matrix::dtype);
    let what = format!("{}: {rows} rows, {width} gates of {columns} in {formats:?}, {activation:?}", device.name());
    let x = device.stored(samples.floats(rows * columns));
    let bias = (rows % 2 == 1).then(|| samples.floats(2 * width));
    let sums = matmul::reference(&x, &halves, bias.as_deref());
    let x = device.tensor(rows, columns, &x).expect("memory");
    let bias = bias.map(|bias| device.vector(&bias).expect("memory"));
    let weight = device.weight(halves.into()).expect("a supported weight");
    let gated = device.gated_product(&x, &weight, bias.as_ref(), activation).expect("a gated product");
    let found = device.to_host(&gated).expect("a copy");
    assert_eq!(found.len(), rows * width, "{what}: length");
    let of_sums = device.tolerance(matmul::tolerance(columns)).min(matmul::ROUNDED) + device.rounding(formats[0]);
    let of_sums = f64::from(of_sums);
    let of_result = f64::from(device.tolerance(2e-6));
    for (index, found) in found.into_iter().enumerate() {
        let at = index / width * 2 * width + index % width;
        let ([gate, gate_size], [up, up_size]) = (sums[at], sums[at + width]);
        let expected = f64::from(reference(gate as f32, up as f32, activation));
        // No activation is steeper than 1.2, nor greater than its gate.
        let through = 1.2 * gate_size * (up.abs() + 1.0) + up_size * gate.abs();
        let bound = of_sums * through + of_result * expected.abs().max(1.0);
        let is_near = (f64::from(found) - expected).abs() <= bound;
        assert!(is_near, "{what}: element {index} is {found}, expected {expected} ± {bound}");
    }
}

fn check_shape<B: Tested>(device: &B, activation: Activation, rows: usize, columns: usize) {
    let mut samples = Samples::new(rows as u64);
    let spread = [0.1, 1.0, 10.0, 300.0];
    let x = (0..rows * 2 * columns).map(|i| samples.float() * spread[i % 4]).collect();
    let x = device.stored(x);
    let halves = x.chunks_exact(2 * columns).map(|row| row.split_at(columns));
    let expected = halves
        .flat_map(|(gates, ups)| gates.iter().zip(ups).map(|(&gate, &up)| reference(gate, up, activation)))
        .collect::<Vec<_>>();
    let tensor = device.tensor(rows, 2 * columns, &x).expect("memory");
    let gated = device.glu(&tensor, activation).expect("gates");
    let what = format!("{activation:?}, {rows} × {columns}");
    assert_close(&device.to_host(&gated).expect("a copy"), &expected, device.tolerance(2e-6), &what);
}

//! The gate of a gated linear unit (Shazeer 2020): `activation(gate) · up`.

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

pub(crate) use cuda::arguments;

use crate::samples::{Samples, Tested, assert_close};
use crate::{Result, memory::Memory};

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
pub trait Glu: Memory {
    /// `[rows, n]` from `gate_up [rows, 2n]`, gate in the first half of the columns.
    fn glu(&self, gate_up: &Self::Tensor, activation: Activation) -> Result<Self::Tensor>;
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

/// Compares a device's gates with the reference over many shapes, extreme gates among them.
pub(crate) fn check<B: Tested>(device: &B) {
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::Clamped { limit: 7.0, alpha: 1.702 }] {
        for (rows, columns) in [(0, 4), (1, 1), (1, 9), (3, 64), (70, 1536)] {
            check_shape(device, activation, rows, columns);
        }
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

//! The gate of a SwiGLU block (Shazeer 2020).

#[allow(unsafe_code, reason = "threads write disjoint parts")]
mod cpu;

#[cfg(test)]
use crate::samples::{Samples, assert_close};
use crate::{Result, memory::Memory};

/// See the module.
pub trait SiluMul: Memory {
    /// `[rows, n]` from `gate_up [rows, 2n]`: `silu(gate) · up`, gate in the first half of the columns.
    fn silu_mul(&self, gate_up: &Self::Tensor) -> Result<Self::Tensor>;
}

/// What the gate means, plainly and in f64.
#[cfg(test)]
fn reference(gate: f32, up: f32) -> f32 {
    let gate = f64::from(gate);
    (gate / (1.0 + (-gate).exp()) * f64::from(up)) as f32
}

/// Compares a device's gates with the reference over many shapes, extreme gates among them.
#[cfg(test)]
pub(crate) fn check<B: crate::Backend>(device: &B) {
    for (rows, columns) in [(0, 4), (1, 1), (1, 9), (3, 64), (70, 1536)] {
        let mut samples = Samples::new(rows as u64);
        let spread = [0.1, 1.0, 10.0, 300.0];
        let x: Vec<f32> = (0..rows * 2 * columns).map(|i| samples.float() * spread[i % 4]).collect();
        let rows_of_x = x.chunks_exact(2 * columns).map(|row| row.split_at(columns));
        let expected = rows_of_x.flat_map(|(gates, ups)| gates.iter().zip(ups).map(|(&gate, &up)| reference(gate, up)));
        let tensor = device.tensor(rows, 2 * columns, &x).expect("memory");
        let gated = device.silu_mul(&tensor).expect("gates");
        let what = format!("{rows} × {columns}");
        assert_close(&device.to_host(&gated).expect("a copy"), &expected.collect::<Vec<_>>(), 1e-6, &what);
    }
}

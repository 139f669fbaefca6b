//! Root-mean-square normalisation, alone and fused with the residual addition before it.
//! `y = w · x / sqrt(mean(x²) + eps)` over a row, in f32 (Zhang & Sennrich 2019).

mod cpu;
#[allow(unsafe_code, reason = "launches kernels")]
mod cuda;

pub(crate) use cpu::normalise;

use crate::samples::{Samples, Tested, assert_close};
use crate::{Result, memory::Memory};

/// See the module.
pub trait RmsNorm: Memory {
    /// Each row of `x [rows, n]` normalised and scaled by `weight [1, n]`.
    fn rms_norm(&self, x: &Self::Tensor, weight: &Self::Tensor, eps: f32) -> Result<Self::Tensor>;

    /// `residual += scale · x`, then the norm of the sum.
    fn add_rms_norm(
        &self,
        residual: &mut Self::Tensor,
        x: &Self::Tensor,
        scale: f32,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor>;
}

/// What normalising one row means, plainly and in f64.
pub(crate) fn reference(row: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    row.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale * f64::from(w)) as f32).collect()
}

/// Compares a device's norms with the reference over many shapes.
pub(crate) fn check<B: Tested>(device: &B) {
    for (rows, columns, scale) in [(0, 8, 1.0), (1, 1, 1.0), (1, 576, 0.25), (2, 7, 1.0), (5, 33, 3.0), (300, 100, 1.0)]
    {
        check_rows(device, rows, columns, scale);
    }
}

fn check_rows<B: Tested>(device: &B, rows: usize, columns: usize, scale: f32) {
    const EPS: f32 = 1e-5;
    let mut samples = Samples::new(columns as u64);
    let x = device.stored(samples.floats(rows * columns));
    let (base, weight) = (samples.floats(rows * columns), samples.floats(columns));
    let normed = |x: &[f32]| x.chunks_exact(columns).flat_map(|row| reference(row, &weight, EPS)).collect::<Vec<_>>();
    let sum: Vec<f32> = base.iter().zip(&x).map(|(a, b)| a + scale * b).collect();
    let tensor = |values: &[f32]| device.tensor(values.len() / columns, columns, values).expect("memory");
    let what = format!("{}: {rows} × {columns}", device.name());
    let device_weight = device.vector(&weight).expect("memory");
    let mut residual = device.residual(rows, columns, &base);
    let tolerance = device.tolerance(2e-6);
    let alone = device.rms_norm(&tensor(&x), &device_weight, EPS).expect("a norm");
    assert_close(&device.to_host(&alone).expect("a copy"), &normed(&x), tolerance, &what);
    let first = device.rms_norm(&residual, &device_weight, EPS).expect("a norm");
    assert_close(&device.to_host(&first).expect("a copy"), &normed(&base), tolerance, &what);
    let added = device.add_rms_norm(&mut residual, &tensor(&x), scale, &device_weight, EPS).expect("a norm");
    assert_close(&device.to_host(&added).expect("a copy"), &normed(&sum), tolerance, &what);
    assert_eq!(device.to_host(&residual).expect("a copy"), sum, "{what}: the residual");
}

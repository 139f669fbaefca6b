//! Normalisation on the CPU.

use super::RmsNorm;
use crate::{
    Heads, Result,
    cpu::{Cpu, Tensor},
};

impl RmsNorm for Cpu {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        assert_eq!(x.columns(), weight.columns(), "a norm weight per column");
        let mut output = self.scratch(x.rows(), x.columns());
        for row in 0..x.rows() {
            let values = output.row_mut(row);
            values.copy_from_slice(x.row(row));
            normalise(values, weight.data(), eps);
        }
        Ok(output)
    }

    fn add_rms_norm(&self, residual: &mut Tensor, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        assert_eq!((x.rows(), x.columns()), (residual.rows(), residual.columns()), "x has the residual's shape");
        for (sum, x) in residual.data_mut().iter_mut().zip(x.data()) {
            *sum += x;
        }
        self.rms_norm(residual, weight, eps)
    }

    fn rms_norm_heads(
        &self,
        qkv: &mut Tensor,
        heads: &Heads,
        query_weight: &Tensor,
        key_weight: &Tensor,
        eps: f32,
    ) -> Result<()> {
        assert_eq!(qkv.columns(), heads.qkv_columns(), "rows hold the query, key and value heads");
        for row in 0..qkv.rows() {
            for (head, values) in qkv.row_mut(row).chunks_exact_mut(heads.dim).enumerate().take(heads.query + heads.kv)
            {
                let weight = if head < heads.query { query_weight } else { key_weight };
                normalise(values, weight.data(), eps);
            }
        }
        Ok(())
    }
}

fn normalise(values: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f32 = values.iter().map(|v| v * v).sum();
    let scale = 1.0 / (squares / values.len() as f32 + eps).sqrt();
    for (value, weight) in values.iter_mut().zip(weight) {
        *value *= scale * weight;
    }
}

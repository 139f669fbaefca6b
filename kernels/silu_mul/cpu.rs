//! The SwiGLU gate on the CPU.

use super::SiluMul;
use crate::{
    Result,
    cpu::{Cpu, Tensor},
};

impl SiluMul for Cpu {
    fn silu_mul(&self, gate_up: &Tensor) -> Result<Tensor> {
        assert!(gate_up.columns().is_multiple_of(2), "as many gates as ups");
        let mut output = self.scratch(gate_up.rows(), gate_up.columns() / 2);
        for row in 0..gate_up.rows() {
            let (gates, ups) = gate_up.row(row).split_at(gate_up.columns() / 2);
            for ((output, gate), up) in output.row_mut(row).iter_mut().zip(gates).zip(ups) {
                *output = gate / (1.0 + (-gate).exp()) * up;
            }
        }
        Ok(output)
    }
}

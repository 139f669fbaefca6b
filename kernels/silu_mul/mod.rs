//! The gate of a SwiGLU block (Shazeer 2020).

mod cpu;

use crate::{Result, memory::Memory};

/// See the module.
pub trait SiluMul: Memory {
    /// `[rows, n]` from `gate_up [rows, 2n]`: `silu(gate) · up`, gate in the first half of the columns.
    fn silu_mul(&self, gate_up: &Self::Tensor) -> Result<Self::Tensor>;
}

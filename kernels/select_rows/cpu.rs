//! Picking rows on the CPU.

use super::SelectRows;
use crate::{
    Result,
    cpu::{Cpu, Tensor},
};

impl SelectRows for Cpu {
    fn select_rows(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let mut output = self.scratch(rows.len(), x.columns());
        for (to, &from) in rows.iter().enumerate() {
            output.row_mut(to).copy_from_slice(x.row(from as usize));
        }
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::select_rows::check(&cpu);
        }
    }
}

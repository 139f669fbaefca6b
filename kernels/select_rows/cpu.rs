//! Picking rows on the CPU.

use super::SelectRows;
use crate::{
    Batch, Result,
    cpu::{Cpu, Tensor},
};

impl SelectRows for Cpu {
    fn select_rows(&self, x: &Tensor, batch: &Batch) -> Result<Tensor> {
        let mut output = self.scratch(batch.sampled_rows.len(), x.columns());
        for (to, &from) in batch.sampled_rows.iter().enumerate() {
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

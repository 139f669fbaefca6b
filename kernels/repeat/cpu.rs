//! Repeating on the CPU: starting an operation costs it nothing, so that it computes each time.

use super::Repeat;
use crate::{
    Batch, Result,
    cpu::{Cpu, Tensor},
    memory::Memory,
};

impl Repeat for Cpu {
    fn repeat(&self, batch: Batch, compute: &mut dyn FnMut(&Batch) -> Result<Tensor>) -> Result<Tensor> {
        compute(&self.batch(batch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        for cpu in Cpu::kinds() {
            crate::repeat::check(&cpu);
        }
    }
}

use super::AllReduce;
use crate::{Result, cpu::Cpu};

impl AllReduce for Cpu {
    fn all_reduce(&self, _x: &mut Self::Tensor) -> Result<()> {
        Ok(())
    }
}

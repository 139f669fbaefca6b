use super::AllGather;
use crate::{Result, cpu::Cpu};

impl AllGather for Cpu {
    fn all_gather(&self, x: Self::Tensor) -> Result<Self::Tensor> {
        Ok(x)
    }
}

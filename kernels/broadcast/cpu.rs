use super::Broadcast;
use crate::{Result, cpu::Cpu};

impl Broadcast for Cpu {
    fn broadcast(&self, _values: &mut [u32]) -> Result<()> {
        Ok(())
    }
}

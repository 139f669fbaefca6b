//! Choosing on the CPU: the logits are the host's already, and so is the choice.

use super::{Ask, Choose, Chosen};
use crate::{
    Result,
    cpu::{Cpu, Tensor},
};

impl Choose for Cpu {
    fn choose(&self, _: &Tensor, _: usize, _: &[Ask]) -> Result<Option<Vec<Chosen>>> {
        Ok(None)
    }
}

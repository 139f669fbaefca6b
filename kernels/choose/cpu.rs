//! Choosing on the CPU: the logits are the host's already, and so is the choice.

use std::convert::Infallible;

use super::{Ask, Choose, Chosen};
use crate::{
    Result,
    cpu::{Cpu, Tensor},
};

impl Choose for Cpu {
    type Choice = Infallible;

    fn begin_choice(&self, _: &Tensor, _: usize, _: &[Ask]) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn is_chosen(&self, choice: &Infallible) -> Result<bool> {
        match *choice {}
    }

    fn choose(&self, _: &Tensor, _: usize, _: &[Ask]) -> Result<Option<Vec<Chosen>>> {
        Ok(None)
    }

    fn chosen(&self, choice: Infallible) -> Result<Vec<Chosen>> {
        match choice {}
    }
}

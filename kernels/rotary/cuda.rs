//! Rotary on a GPU.

use super::Rotary;
use crate::{
    DeviceError, Heads, Result,
    cuda::{Cuda, Angles, DeviceBatch, Tensor},
};

impl Rotary for Cuda {
    fn rotary(&self, _: &mut Tensor, _: &Heads, _: &Angles, _: &DeviceBatch) -> Result<()> {
        Err(DeviceError::Unsupported("rotary".into()))
    }
}

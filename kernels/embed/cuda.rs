//! Embed on a GPU.

use super::Embed;
use crate::{
    DeviceError, Result,
    cuda::{Cuda, DeviceBatch, Tensor, Weight},
};

impl Embed for Cuda {
    fn embed(&self, _: &Weight, _: u32, _: f32, _: &DeviceBatch) -> Result<Tensor> {
        Err(DeviceError::Unsupported("embed".into()))
    }
}

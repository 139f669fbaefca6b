//! Glu on a GPU.

use super::{Activation, Glu};
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Tensor},
};

impl Glu for Cuda {
    fn glu(&self, _: &Tensor, _: Activation) -> Result<Tensor> {
        Err(DeviceError::Unsupported("glu".into()))
    }
}

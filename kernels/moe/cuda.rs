//! Moe on a GPU.

use super::{Experts, Moe, Routing};
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Tensor},
};

impl Moe for Cuda {
    fn route(&self, _: &Tensor, _: Option<&Tensor>, _: &Routing) -> Result<Tensor> {
        Err(DeviceError::Unsupported("route".into()))
    }

    fn experts(&self, _: &Tensor, _: &Tensor, _: &Experts<Self>, _: Option<Tensor>) -> Result<Tensor> {
        Err(DeviceError::Unsupported("experts".into()))
    }
}

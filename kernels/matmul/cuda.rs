//! MatMul on a GPU.

use super::MatMul;
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Tensor, Weight},
};

impl MatMul for Cuda {
    fn matmul(&self, _: &Tensor, _: &Weight, _: Option<&Tensor>) -> Result<Tensor> {
        Err(DeviceError::Unsupported("matmul".into()))
    }

    fn scores(&self, _: &Tensor, _: &Weight, _: Option<&Tensor>) -> Result<Tensor> {
        Err(DeviceError::Unsupported("scores".into()))
    }
}

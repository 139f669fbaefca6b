//! SelectRows on a GPU.

use super::SelectRows;
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Tensor},
};

impl SelectRows for Cuda {
    fn select_rows(&self, _: &Tensor, _: &[u32]) -> Result<Tensor> {
        Err(DeviceError::Unsupported("select_rows".into()))
    }
}

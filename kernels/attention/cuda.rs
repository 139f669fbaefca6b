//! Attention on a GPU.

use super::{Attention, Scoring};
use crate::{
    DeviceError, Heads, Result,
    cuda::{Cuda, DeviceBatch, KvCache, Tensor},
};

impl Attention for Cuda {
    fn attention(
        &self,
        _: &Tensor,
        _: &KvCache,
        _: usize,
        _: &Heads,
        _: &Scoring<Tensor>,
        _: &DeviceBatch,
    ) -> Result<Tensor> {
        Err(DeviceError::Unsupported("attention".into()))
    }
}

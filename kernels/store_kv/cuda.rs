//! StoreKv on a GPU.

use super::StoreKv;
use crate::{
    DeviceError, Heads, Result,
    cuda::{Cuda, DeviceBatch, KvCache, Tensor},
};

impl StoreKv for Cuda {
    fn store_kv(&self, _: &mut KvCache, _: usize, _: &Tensor, _: &Heads, _: &DeviceBatch) -> Result<()> {
        Err(DeviceError::Unsupported("store_kv".into()))
    }
}

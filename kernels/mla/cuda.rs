//! LatentAttention on a GPU.

use super::{LatentAttention, LatentHeads};
use crate::{
    DeviceError, Result,
    cuda::{Cuda, Tensor, Weight},
};

impl LatentAttention for Cuda {
    fn latent_rows(&self, _: &Tensor, _: &Tensor, _: (&Tensor, f32), _: &Weight, _: &LatentHeads) -> Result<Tensor> {
        Err(DeviceError::Unsupported("latent_rows".into()))
    }

    fn latent_values(&self, _: &Tensor, _: &Weight, _: &LatentHeads) -> Result<Tensor> {
        Err(DeviceError::Unsupported("latent_values".into()))
    }
}

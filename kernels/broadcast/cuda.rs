//! Broadcast between GPUs' ranks. What is told is on the host already, and goes from host to host.

use super::{Broadcast, among};
use crate::{Backend, Result, cuda::Cuda};

impl Broadcast for Cuda {
    fn broadcast(&self, values: &mut [u32]) -> Result<()> {
        among(self.group(), values)
    }
}

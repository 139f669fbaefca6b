//! All-reduce between GPUs, by NCCL. Every rank ends with the same bits; in which order it adds is NCCL's.

use super::AllReduce;
use crate::{
    Result,
    cuda::{Cuda, Tensor},
};

impl AllReduce for Cuda {
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        if x.elements() == 0 {
            return Ok(());
        }
        self.with_communicator(|communicator| {
            // SAFETY: a tensor's elements, which its maker enqueued.
            unsafe { communicator.all_reduce(self.driver(), x.pointer(), x.elements(), x.element()) }
        })
    }
}

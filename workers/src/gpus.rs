//! The GPUs of this machine, as whoever starts workers asks for them.

use kernels::{DeviceError, cuda};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As its maker calls it.
    pub name: String,
    /// Its memory, bytes.
    pub memory_bytes: u64,
}

/// The GPUs of `ranks` ranks, one each; the error says what is missing for that.
pub fn find(ranks: usize) -> Result<Vec<Gpu>, DeviceError> {
    let found = cuda::find(ranks)?;
    Ok(found.into_iter().map(|facts| Gpu { name: facts.name, memory_bytes: facts.memory_bytes }).collect())
}

//! The GPUs of this machine, as whoever starts workers asks for them.

use std::{
    io,
    path::{Path, PathBuf},
};

use kernels::{DeviceError, cuda};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As its maker calls it.
    pub name: String,
    /// Its memory, bytes.
    pub memory_bytes: u64,
    /// Its place on the PCI bus, `0000:3b:00.0`.
    pub bus_id: String,
}

/// The GPUs of `ranks` ranks, one each; the error says what is missing for that.
pub fn find(ranks: usize) -> Result<Vec<Gpu>, DeviceError> {
    let found = cuda::find(ranks)?;
    let gpu = |facts: cuda::Facts| Gpu { name: facts.name, memory_bytes: facts.memory_bytes, bus_id: facts.bus_id };
    Ok(found.into_iter().map(gpu).collect())
}

/// Folders for the `LD_LIBRARY_PATH` of workers that compute on GPUs, beyond what the loader looks through anyway; links
/// that they need are made in `links`.
pub fn search_path(links: &Path) -> io::Result<Vec<PathBuf>> {
    cuda::search_path(links)
}

/// Whether ranks can leave matrix products to NVIDIA's library; the error says why not, and what to do.
pub fn check_products() -> Result<(), String> {
    cuda::check_products()
}

/// How many GPUs this process sees; an error says why none can be used.
pub fn count() -> Result<usize, DeviceError> {
    cuda::count()
}

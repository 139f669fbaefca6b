//! Memory for the KV caches of ranks on the CPU: files without a name, which the server holds open, so that what is in them
//! outlives each rank. Workers inherit them.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

/// One file for each rank.
#[derive(Debug)]
pub struct KvMemory(Vec<OwnedFd>);

impl KvMemory {
    /// Empty files, which ranks make as long as they need. With no ranks there are none.
    pub fn for_ranks(ranks: usize) -> io::Result<Self> {
        // Without MFD_CLOEXEC: a worker finds it under the same number.
        let files = (0..ranks).map(|_| memfd_create("shardwire-kv", MFdFlags::empty()).map_err(io::Error::from));
        files.collect::<io::Result<_>>().map(Self)
    }

    /// Where the worker of a rank finds its file; none where there is none.
    pub fn path_for(&self, rank: usize) -> Option<PathBuf> {
        self.0.get(rank).map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()).into())
    }
}

//! Why a worker ends.

use std::path::PathBuf;

use kernels::{DeviceError, group::JoinError};
use thiserror::Error;

use crate::link::LinkError;
use crate::rank::RankError;
use crate::weights::LoadError;

/// Why a worker ended.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// Its standard input made no sense: whoever started it is not a server of this version.
    #[error("cannot read the worker's configuration: {0}")]
    Config(String),
    /// It could not become the process it is to be.
    #[error("cannot set up the worker process: {0}")]
    Process(#[from] std::io::Error),
    /// The memory that the server keeps for it.
    #[error("the memory for the KV cache ({}) cannot be opened: {source}", .path.display())]
    KvMemory {
        /// Where it was to be.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its place among the ranks.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Its shard.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A step.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// A fault in this program.
    #[error("{0}")]
    Panic(String),
}

impl WorkerError {
    /// 2 for a model that cannot be loaded or a device that is not there, so that nobody tries again; 1 for all else.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            WorkerError::Load(_) | WorkerError::Rank(RankError::Device(DeviceError::Unavailable(_))) => 2,
            _ => 1,
        }
    }
}

impl From<DeviceError> for WorkerError {
    fn from(error: DeviceError) -> Self {
        WorkerError::Rank(error.into())
    }
}

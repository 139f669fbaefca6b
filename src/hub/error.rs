//! Why a model of the hub can't be had, and what to do about it: one line each.

use std::{io, path::PathBuf};

use super::choice::NoChoice;

/// What went wrong. Names, addresses and paths are in the message; tokens never are.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// FastDeploy's variable asks for another hub.
    #[error(
        "FD_MODEL_SOURCE={0} is not supported: models are fetched from Hugging Face's hub only; set it to HUGGINGFACE, \
         or name a folder with --model"
    )]
    Source(String),
    /// The variable holds no address.
    #[error("HF_ENDPOINT={0} is no address: write https://HOST")]
    Endpoint(String),
    /// The flag holds no name of a branch, tag or commit.
    #[error("--revision {0} can be no branch, tag or commit")]
    Revision(String),
    /// The token could not be sent.
    #[error("the token in HF_TOKEN (or in Hugging Face's token file) has characters that no token has")]
    Token,
    /// The certificates to trust can't be read.
    #[error("SSL_CERT_FILE names {}: {why}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nowhere to keep it.
    #[error("no folder to keep models in: set HOME or HF_HOME, or name one with --download-dir")]
    NoCacheFolder,
    /// The hub does not know the name, or not for this user; it doesn't tell which.
    #[error(
        "{name}: there is no such folder or file here, and {endpoint} has no model of that name, or it is private: check \
         the name, and for a private model set HF_TOKEN"
    )]
    NoSuchModel {
        /// `owner/name`.
        name: String,
        /// The hub's address.
        endpoint: String,
    },
    /// No such branch, tag or commit.
    #[error("{name} has no revision {revision} (a branch, a tag or a whole commit) on {endpoint}")]
    NoSuchRevision {
        /// `owner/name`.
        name: String,
        /// What was asked for.
        revision: String,
        /// The hub's address.
        endpoint: String,
    },
    /// A licence has to be accepted first.
    #[error(
        "{name} is gated: accept its licence on {endpoint}/{name}, and set HF_TOKEN to a token of the account that did"
    )]
    Gated {
        /// `owner/name`.
        name: String,
        /// The hub's address.
        endpoint: String,
    },
    /// The hub says no for another reason.
    #[error("{endpoint} refuses {what}: {why}")]
    Refused {
        /// The hub's address.
        endpoint: String,
        /// What was asked for.
        what: String,
        /// Status and the hub's own words.
        why: String,
    },
    /// The repository has nothing that could be served.
    #[error("{name} {why}")]
    Choice {
        /// `owner/name`.
        name: String,
        /// What is wrong with it.
        why: NoChoice,
    },
    /// The hub answers nonsense.
    #[error("{endpoint} gave no sensible answer about {what}: {why}; is HF_ENDPOINT right?")]
    Nonsense {
        /// The hub's address.
        endpoint: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// No network, or the hub is down; nor is the model in the cache.
    #[error(
        "{name} is neither on this machine ({missing}) nor can {endpoint} be reached ({why}): connect this machine, name \
         a mirror in HF_ENDPOINT, or run `shardwire fetch {name}` elsewhere, copy the folder it prints (`cp -rL`) and \
         name it with --model"
    )]
    Unreachable {
        /// `owner/name`.
        name: String,
        /// The hub's address.
        endpoint: String,
        /// The network's complaint.
        why: String,
        /// What the cache lacks.
        missing: String,
    },
    /// The network is not to be used, and the cache lacks something.
    #[error(
        "{name} can't be served offline: {missing}; unset HF_HUB_OFFLINE, or run `shardwire fetch {name}` where there is \
         a network and copy the folder"
    )]
    Offline {
        /// `owner/name`.
        name: String,
        /// What the cache lacks.
        missing: String,
    },
    /// A download that broke too often.
    #[error(
        "{file} could not be fetched from {endpoint}: {why}; what has come is kept, and the same command goes on there"
    )]
    Broken {
        /// The file's name in the repository.
        file: String,
        /// The hub's address.
        endpoint: String,
        /// The last complaint.
        why: String,
    },
    /// Something else came instead of the file.
    #[error(
        "{file} came with the SHA-256 {found}, not {expected}: it was damaged or replaced on its way, and is not kept; the \
         same command fetches it anew"
    )]
    WrongChecksum {
        /// The file's name in the repository.
        file: String,
        /// Of what came.
        found: String,
        /// Of the right file.
        expected: String,
    },
    /// The disk would be full.
    #[error(
        "{name} needs {needed} more in {}, where {free} are free: make room, or choose another folder with --download-dir \
         or HF_HUB_CACHE",
        path.display()
    )]
    NoSpace {
        /// `owner/name`.
        name: String,
        /// What is still to come, for people.
        needed: String,
        /// What there is, for people.
        free: String,
        /// The cache.
        path: PathBuf,
    },
    /// The cache can't be read or written.
    #[error(
        "{}: {source}; models are kept there: make it writable and give it room, or choose another folder with \
         --download-dir or HF_HUB_CACHE",
        path.display()
    )]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HubError {
    /// Makes an error of the cache out of the system's.
    pub fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { path, source }
    }
}

//! Why a request was not answered as it should be.

use std::{io, time::Duration};

/// One line each; requests that failed for the same reason are counted together.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection came about.
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    /// The server answered with another status than 200.
    #[error("HTTP {status}: {message}")]
    Refused {
        /// The status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The stream brought an error.
    #[error("the server said: {0}")]
    Told(String),
    /// The connection ended before the answer did.
    #[error("the answer broke off: {0}")]
    BrokenOff(String),
    /// What came is no HTTP, or no event of an answer.
    #[error("what the server sent makes no sense: {0}")]
    Malformed(String),
    /// The answer ended in order and had no text.
    #[error("an answer without text")]
    Empty,
    /// It took longer than `--request-timeout`.
    #[error("no whole answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl Failure {
    /// Whether nobody listens at the server's address, so that asking on makes no sense.
    pub fn server_is_gone(&self) -> bool {
        matches!(self, Self::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

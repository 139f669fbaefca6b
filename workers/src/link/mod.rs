//! All that the server and its workers share: the words they speak and the memory they speak through.
//!
//! ```text
//!  server ══ step ring (1 writer, N readers) ══► rank 0 … rank N-1
//!     ▲                                            │
//!     ╚═════ return ring (1 writer, 1 reader) ◄════╝ rank 0
//!  vitals: one page per rank, written by the rank's own step loop, read by the server
//! ```

pub mod report;
pub mod ring;
pub mod sampling;
pub mod shm;
pub mod step;
pub mod vitals;

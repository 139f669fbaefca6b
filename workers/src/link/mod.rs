//! All that the server and its workers share: the words they speak and the memory they speak through.
//!
//! ```text
//!  server ══ step ring (1 writer, N readers) ══► rank 0 … rank N-1
//!     ▲                                            │
//!     ╚═════ return ring (1 writer, 1 reader) ◄════╣ rank 0
//!  server ══ mask ring (1 writer, 1 reader) ══════►╝
//!  vitals: one page per rank, written by the rank's own step loop, read by the server
//! ```
//!
//! [`server::ServerLink`] creates five segments and hands out the server's ends, [`worker::WorkerLink`] attaches to them.
//! What crosses is [`step::Step`] and, apart from it, [`mask::TokenMask`] one way and [`report::StepReport`] the other.

pub mod codec;
pub mod ends;
pub mod error;
pub mod mask;
pub mod name;
mod page;
pub mod report;
#[allow(unsafe_code, reason = "bytes of shared memory, handed from writer to readers")]
pub mod ring;
pub mod sampling;
pub mod server;
#[allow(unsafe_code, reason = "maps shared memory, and shows it as atomics")]
pub mod shm;
pub mod step;
#[cfg(test)]
mod tests;
pub mod vitals;
pub mod worker;

pub use ends::{MaskReader, MaskWriter, ReportReader, ReportWriter, StepReader, StepWriter};
pub use error::LinkError;
pub use server::{LinkConfig, LinkNames, ServerLink};
pub use shm::Segment;
pub use vitals::{VitalsBoard, VitalsWriter};
pub use worker::{Seat, WorkerLink};

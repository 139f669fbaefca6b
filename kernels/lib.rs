//! Everything that touches a device, and nothing else: no model, no process, no sequence.
//!
//! A model is written once, against [`Backend`]: about a dozen *fused* operations rather than a tensor algebra.
//! Each operation has one folder: `mod.rs` holds its contract (a trait), a plain reference and a conformance
//! check; `cpu.rs` beside it is the fast text for the CPU, `cuda.rs` with `cuda.cu` that for GPUs. Collectives are operations like the others.
//!
//! `unsafe` is denied but in the rooms that say `allow` where they are declared: here, in `cpu.rs` and in the operations'
//! `mod.rs`.
//!
//! Notation: `[rows, columns]` is row-major f32 unless said; a *row* is one token of the flat batch.

#![deny(unsafe_code)]

pub mod batch;
pub mod dtype;
pub mod error;
pub mod matrix;
pub mod sensors;

pub mod cpu;
#[allow(unsafe_code, reason = "calls the driver and its companions")]
pub mod cuda;
#[allow(unsafe_code, reason = "collectives meet in shared memory")]
pub mod group;

pub mod all_gather;
pub mod all_reduce;
pub mod attention;
pub mod broadcast;
pub mod choose;
pub mod embed;
pub mod glu;
pub mod matmul;
pub mod memory;
pub mod mla;
pub mod moe;
pub mod repeat;
pub mod rms_norm;
pub mod rotary;
pub mod select_rows;

pub mod bench;
pub mod conformance;
pub(crate) mod samples;
pub mod speed;

pub use batch::{Batch, CHOSEN, Heads, KvShape};
pub use dtype::{DType, KvDType};
pub use error::DeviceError;
pub use matrix::Matrix;

/// What every operation answers.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// A kind of device, as the sum of the operations that a model asks of it.
pub trait Backend:
    memory::Memory
    + embed::Embed
    + matmul::MatMul
    + rms_norm::RmsNorm
    + rotary::Rotary
    + attention::Attention
    + glu::Glu
    + moe::Moe
    + mla::LatentAttention
    + select_rows::SelectRows
    + choose::Choose
    + all_reduce::AllReduce
    + all_gather::AllGather
    + broadcast::Broadcast
    + repeat::Repeat
{
    /// The ranks that this one meets.
    fn group(&self) -> &group::Group;

    /// How long this rank has waited for others in collectives since its start; none where the device meets them by
    /// itself, unseen by the host.
    fn collective_wait(&self) -> Option<std::time::Duration> {
        None
    }

    /// What the device measures of itself; none where it measures nothing.
    fn sensors(&self) -> Option<Box<dyn sensors::Sensors>> {
        None
    }
}

//! One process per rank: takes a step from the link, runs this rank's shard of the model, reports what was sampled.
//!
//! No text, no HTTP, no scheduling policy. A worker is the `shardwire` binary re-executing itself; [`worker::run`] is
//! its whole life.
//!
//! `unsafe` is denied but where a room is declared with `allow`: the link's memory (`link/shm.rs`, `link/ring/`) and mapped
//! model files (`weights/mapped.rs`).

#![deny(unsafe_code)]

pub use child::LOG_FORMAT;
pub use kernels::{
    KvDType,
    sensors::{Reading, Throttle, ThrottleReason},
};

pub mod batch;
pub mod bench;
mod child;
pub mod fault;
#[cfg(test)]
#[path = "../../tests/fixtures/mod.rs"]
mod fixtures;
pub mod gpus;
pub mod kv_cache;
pub mod layers;
pub mod link;
pub mod masks;
pub mod models;
pub mod pooling;
pub mod rank;
pub mod sampler;
pub mod selftest;
mod sensing;
pub mod sequences;
pub mod weights;
pub mod worker;

/// Bytes of shared memory in which so many CPU ranks meet for their collectives (`LinkConfig::meeting_bytes`).
pub fn meeting_bytes(world_size: usize) -> usize {
    kernels::group::Group::bytes(world_size)
}

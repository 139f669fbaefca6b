//! The model families: one short file each and one line in the table.

mod config;
mod ernie45;
mod family;
mod from_gguf;
mod from_json;
mod llama;
mod qwen3;
mod rope;

pub use config::ModelConfig;
pub use family::Family;
pub use rope::{Rope, Scaling};

/// Every family that Shardwire knows.
pub const FAMILIES: [&Family; 3] = [&llama::FAMILY, &ernie45::FAMILY, &qwen3::FAMILY];

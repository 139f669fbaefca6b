//! Measurements of what workers do: [`kernels`] are the CPU's operations, [`link`] is the way to another process.

pub mod kernels;
pub mod link;

//! The deciding loop: admit → schedule → publish → collect → deliver.
//!
//! [`sequence`], [`scheduler`] and [`block_pool`] are pure values: no I/O, no clock, no device. The loop itself runs on a
//! thread of its own, joined to the API by [`request`]'s handle and to the ranks by the link.

pub mod block_pool;
pub mod request;
pub mod scheduler;
pub mod sequence;

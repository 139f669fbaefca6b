//! What a model is made of: weights that know their own shard, and the operations they go through.
//!
//! Attention and MLP are each a column-parallel matrix (every rank has some outputs), something local, and a row-parallel
//! one (every rank has some inputs) whose partial sums an all-reduce makes whole. Hidden states and norms are replicated.

mod attention;
mod experts;
mod latent_attention;
mod linear;
mod mlp;
mod norm;
mod shard;
mod source;
mod vocabulary;

pub(crate) use attention::Attention;
pub(crate) use experts::MixtureOfExperts;
pub(crate) use latent_attention::LatentAttention;
pub(crate) use linear::{ColumnParallel, Part, RowParallel};
pub(crate) use mlp::Mlp;
pub(crate) use norm::{Branch, Norm};
pub use shard::Shard;
pub use source::{Amount, Inventory};
pub(crate) use source::{Purpose, Source};
pub(crate) use vocabulary::Vocabulary;
